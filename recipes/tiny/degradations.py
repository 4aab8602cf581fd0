"""What restoration must undo: noise patterns, blur, JPEG, lost resolution, and artefacts of the latent space."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

Pixels = NDArray[np.float32]  # (H, W, 3) in [0, 1]


def _noise(picture: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Noise of many spectra: white, signs, blocks, waves; of one colour or of three."""
    size, amplitude = picture.shape[0], strength * 40 / 255
    kind = rng.integers(4)
    if kind == 0:
        pattern = rng.standard_normal(picture.shape)
    elif kind == 1:
        cell = int(rng.integers(1, 5))
        few = -(-size // cell)
        pattern = np.sign(rng.standard_normal((few, few, 3))).repeat(cell, 0).repeat(cell, 1)[:size, :size]
    elif kind == 2:
        few = int(rng.integers(size // 8, size // 2 + 1))
        coarse = Image.fromarray(rng.integers(0, 256, (few, few, 3), np.uint8)).resize((size, size), 3)
        pattern = (np.asarray(coarse, np.float32) / 127.5 - 1) * 1.6
    else:
        y, x = np.mgrid[:size, :size]
        fx, fy, bend = rng.uniform(0.3, 2.4, 3)
        wave = np.sin(fx * x + fy * y + 3 * bend * np.sin(0.2 * x - 0.15 * y))
        pattern = 1.3 * wave[..., None] * rng.uniform(-1, 1, 3)
    return picture + amplitude * pattern


def _as_image(picture: Pixels) -> Image.Image:
    return Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8))


def _blur(picture: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    return np.asarray(_as_image(picture).filter(ImageFilter.GaussianBlur(0.3 + 1.4 * strength)), np.float32) / 255


def _jpeg(picture: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    buffer = io.BytesIO()
    _as_image(picture).save(buffer, "JPEG", quality=int(90 - 75 * strength))
    return np.asarray(Image.open(buffer), np.float32) / 255


def _small(picture: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    size = picture.shape[0]
    few = round(size / (1 + 2 * strength))
    small = _as_image(picture).resize((few, few), int(rng.integers(1, 4)))
    return np.asarray(small.resize((size, size), int(rng.choice([0, 2, 3]))), np.float32) / 255


def degrade(picture: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """One to three degradations of the given strength in [0, 1]; noise is the likeliest."""
    steps = rng.choice(4, size=int(rng.integers(1, 4)), replace=False, p=(0.49, 0.17, 0.17, 0.17))
    for step in steps:
        part = float(strength * rng.uniform(0.4, 1.0))
        picture = (_noise, _blur, _jpeg, _small)[step](picture, part, rng)
    return picture.clip(0, 1).astype(np.float32)


def tensor(pictures: list[Pixels]) -> Tensor:
    """``(N, 3, H, W)``."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
