"""The training pictures: drawn portraits with their facts and captions, and real photos.

Drawn: ``--people`` identities x 4 shots from a seed stream that no test subject shares, about one in six degraded.
Real: the Face Research Lab London Set (90 consenting adults, CC BY 4.0) less the held-out people, and crops of the
DreamBooth photos for the autoencoder. Real photos are read from ``$REDCLOAK_PHOTOS`` and are optional: without
them the recipes train on drawn portraits alone.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from common import STATE
from numpy.typing import NDArray
from PIL import Image, ImageOps

from redcloak import portraits

PHOTOS = Path(os.environ.get("REDCLOAK_PHOTOS", Path(__file__).parents[3] / "shared" / "data"))
SHOTS = 4
TRAIN, TEST = 0x7EA1, 0x7E57  # seed streams of training and of held-out people
HELD_OUT = 10  # of the 90 London people

Pixels = NDArray[np.uint8]


def person(stream: int, number: int, size: int = 64, shots: int = SHOTS, degraded: float = 0.16) -> list[Any]:
    """``shots`` x (picture, facts, captions) of one drawn person."""
    rng = np.random.default_rng(np.random.SeedSequence([stream, number]))
    identity = portraits.draw_identity(rng)
    result = []
    for _ in range(shots):
        shot = portraits.draw_shot(rng, degraded=degraded)
        captions = [portraits.caption(identity, shot, rng) for _ in range(6)]
        result.append((portraits.render(identity, shot, size), portraits.attributes(identity, shot), captions))
    return result


def _persons(job: tuple[int, int, int, int]) -> list[Any]:
    stream, start, stop, size = job
    return [row for number in range(start, stop) for row in person(stream, number, size)]


def drawn(
    people: int = 10000, size: int = 64, stream: int = TRAIN
) -> tuple[Pixels, list[dict[str, str]], list[list[str]]]:
    """Pictures ``(N, size, size, 3)``, facts and captions; rendered once and kept in the state folder."""
    stem = STATE / f"drawn-{stream:x}-{people}-{size}"
    if not stem.with_suffix(".json").exists():
        jobs = [(stream, start, min(start + 100, people), size) for start in range(0, people, 100)]
        with ProcessPoolExecutor(2) as pool:
            rows = [row for part in pool.map(_persons, jobs) for row in part]
        np.save(stem.with_suffix(".npy"), np.stack([row[0] for row in rows]))
        stem.with_suffix(".json").write_text(json.dumps([row[1:] for row in rows]))
    facts, captions = zip(*json.loads(stem.with_suffix(".json").read_text()), strict=True)
    return np.load(stem.with_suffix(".npy")), list(facts), list(captions)


@lru_cache
def london(*, held_out: bool, size: int = 256) -> tuple[list[Image.Image], list[str]]:
    """Real faces and their expressions; the last ten people by number are never trained on."""
    people = sorted(path for path in (PHOTOS / "london").glob("*") if path.is_dir())
    chosen = people[-HELD_OUT:] if held_out else people[:-HELD_OUT]
    files = [file for folder in chosen for file in sorted(folder.glob("*.png"))]
    return [Image.open(file).convert("RGB").resize((size, size), Image.Resampling.LANCZOS) for file in files], [
        file.stem for file in files
    ]


def augment(image: Image.Image, rng: np.random.Generator, size: int = 64) -> Pixels:
    """A jittered crop, a mirror, a turn, and light of another strength and colour."""
    width = image.width
    side = width * rng.uniform(0.6, 0.95)
    left, top = np.clip(rng.normal(0.5, 0.04, 2) * width - side / 2, 0, width - side)  # the face is in the middle
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    image = image.rotate(rng.uniform(-6, 6), Image.Resampling.BICUBIC, fillcolor=image.getpixel((2, 2)))
    box = (left, top, left + side, top + side)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box), np.float32)
    gain = rng.uniform(0.8, 1.15) * rng.uniform(0.94, 1.06, 3)
    return np.clip(pixels * gain.astype(np.float32), 0, 255).round().astype(np.uint8)


def real(count: int = 6000, size: int = 64) -> tuple[Pixels, list[str]]:
    """Augmented real faces ``(N, size, size, 3)`` and their expressions ("smiling", "neutral")."""
    path = STATE / f"real-{count}-{size}.npy"
    photos, expressions = london(held_out=False)
    if not photos:
        return np.zeros((0, size, size, 3), np.uint8), []
    if not path.exists():
        rng = np.random.default_rng(11)
        np.save(path, np.stack([augment(photos[i % len(photos)], rng, size) for i in range(count)]))
    return np.load(path), [expressions[i % len(photos)] for i in range(count)]


@lru_cache
def objects() -> list[Image.Image]:
    """Real photos of things, for crops."""
    files = sorted((PHOTOS / "dreambooth").glob("*/*.png"))
    return [Image.open(file).convert("RGB") for file in files]


def object_crops(count: int = 2000, size: int = 64) -> Pixels:
    """Random crops of the photos of things, at scales from close-up to the whole."""
    path = STATE / f"objects-{count}-{size}.npy"
    photos = objects()
    if not photos:
        return np.zeros((0, size, size, 3), np.uint8)
    if not path.exists():
        rng, crops = np.random.default_rng(12), []
        for i in range(count):
            photo = photos[i % len(photos)]
            side = rng.uniform(size, photo.width)
            left, top = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
            box = (left, top, left + side, top + side)
            crops.append(np.asarray(photo.resize((size, size), Image.Resampling.LANCZOS, box=box)))
        np.save(path, np.stack(crops))
    return np.load(path)


if __name__ == "__main__":
    print("drawn", drawn()[0].shape, "real", real()[0].shape, "things", object_crops().shape)
