"""The x4 upscaler, in the place of the Stable Diffusion x4 upscaler: 16x16 -> 64x64 crops of 128x128 pictures.

Like it, the network is told the level of the noise that was added to its input (0 to 0.1 in [0, 1] units), so that
sampling can add noise of a known level and have it removed.
"""

from __future__ import annotations

import numpy as np
import torch
from common import Loop, arguments, batch_rng
from data import drawn, object_crops, real
from degradations import tensor
from export import save_module
from PIL import Image
from torch import Tensor
from train_restorer import distance, pick

from redcloak.models.nets import Upscaler

SIDE = 64


def example(sources: list[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A high-resolution crop and its quarter, by one of several kernels."""
    picture = pick(sources, rng)
    top, left = rng.integers(0, picture.shape[0] - SIDE + 1, 2)
    crop = Image.fromarray((picture[top : top + SIDE, left : left + SIDE] * 255).round().astype(np.uint8))
    kernel = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)[rng.integers(3)]
    return np.asarray(crop, np.float32) / 255, np.asarray(crop.resize((SIDE // 4,) * 2, kernel), np.float32) / 255


def main() -> None:
    args = arguments(2500, __doc__ or "")
    pictures, facts, _ = drawn(1200, 128)
    clean = pictures[[fact["quality"] == "clean" for fact in facts]]
    sources, model = [clean, real(2000, 128)[0], object_crops(1000, 128)], Upscaler()
    loop = Loop("upscaler", model, args.steps, 1e-3, wd=0.0)

    def loss(step: int) -> Tensor:
        rng, stream = batch_rng("upscaler", step)
        large, small = zip(*[example(sources, rng) for _ in range(16)], strict=True)
        noise = torch.from_numpy(rng.uniform(0, 0.1, 16) * (rng.random(16) < 0.8)).float()
        low = tensor(list(small))
        low = low + noise.view(-1, 1, 1, 1) * torch.randn(low.shape, generator=stream)
        return distance(model(low, noise), tensor(list(large)))

    if not args.export_only:
        loop.run(loss)
    save_module(loop.averaged(), "upscaler")
    loop.record()


if __name__ == "__main__":
    main()
