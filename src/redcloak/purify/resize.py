"""Shrinking and enlarging again: what is finer than a pixel of the small picture is gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import MethodConfig

METHOD = Method(
    title="Resizing",
    cite="Keys, Cubic Convolution Interpolation, 1981; Duchon, Lanczos Filtering, 1979; kernels and windows as Pillow.",
    differentiable=True,
)
Kernel = Literal["bicubic", "bilinear", "lanczos", "area"]


class Config(MethodConfig):
    """How small the picture is made, and by which kernels."""

    shrink: float = Field(2.0, ge=1, le=16, description="side before / side after shrinking")
    down: Kernel = Field("bicubic", description="kernel of shrinking, widened by the factor (antialiased)")
    up: Kernel = Field("bicubic", description="kernel of enlarging; area repeats pixels where the factor is whole")


def resize(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Shrink by ``shrink`` and enlarge to the size that came in.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Nothing is random.

    Cite: Keys 1981, Duchon 1979. License: Apache-2.0.
    """
    height, width = images.shape[-2:]
    small = resample(images, max(1, round(height / config.shrink)), max(1, round(width / config.shrink)), config.down)
    return resample(small, height, width, config.up) if small.shape != images.shape else images.clone()


def resample(images: Tensor, height: int, width: int, kernel: Kernel) -> Tensor:
    """Separable resampling of ``(N, C, H, W)`` in [0, 1], cut to [0, 1]: a product with a matrix on each side."""
    rows, columns = _weights(images.shape[-2], height, kernel), _weights(images.shape[-1], width, kernel)
    return (rows.to(images) @ images @ columns.to(images).T).clamp(0, 1)


def _weights(old: int, new: int, kernel: Kernel) -> Tensor:
    """The ``(new, old)`` matrix that resamples one axis; its rows sum to 1, so that edges need no padding."""
    scale = old / new
    pixels, places = torch.arange(old, dtype=torch.float64), torch.arange(new, dtype=torch.float64)[:, None]
    if kernel == "area":
        right = torch.minimum(pixels + 1, (places + 1) * scale)
        weights = (right - torch.maximum(pixels, places * scale)).clamp_min(0)
    else:
        distance = (pixels + 0.5 - (places + 0.5) * scale) / max(scale, 1)
        weights = _KERNELS[kernel](distance.abs())
    return weights / weights.sum(1, keepdim=True)


def _cubic(x: Tensor, a: float = -0.5) -> Tensor:
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def _lanczos(x: Tensor, lobes: int = 3) -> Tensor:
    return torch.where(x < lobes, torch.sinc(x) * torch.sinc(x / lobes), 0)


_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "bilinear": lambda x: (1 - x).clamp_min(0),
    "bicubic": _cubic,
    "lanczos": _lanczos,
}
