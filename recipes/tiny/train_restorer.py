"""The restorer, in CodeFormer's place: degraded faces -> clean ones, at a fidelity: how far to trust the input.

Training couples the two: the weaker the degradation, the higher the fidelity the network is told, so that
``fidelity=1`` leaves a picture alone and ``fidelity=0`` expects it ruined. Loss: L1 and the L1 of gradients.
"""

from __future__ import annotations

import numpy as np
import torch
from common import Loop, arguments, batch_rng, half
from data import drawn, object_crops, real
from degradations import degrade, tensor
from export import save_module
from torch import Tensor

from redcloak.models.nets import Restorer


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def distance(a: Tensor, b: Tensor) -> Tensor:
    """L1 of pictures and of their gradients."""
    edges = sum((p - q).abs().mean() for p, q in zip(gradients(a), gradients(b), strict=True))
    return (a - b).abs().mean() + 0.5 * edges


def pick(sources: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A clean picture: 55 % drawn, 35 % real faces, 10 % things."""
    weights = np.asarray([0.55, 0.35, 0.10]) * [len(source) > 0 for source in sources]
    source = sources[rng.choice(len(sources), p=weights / weights.sum())]
    picture = source[rng.integers(len(source))].astype(np.float32) / 255
    return picture[:, ::-1].copy() if rng.random() < 0.5 else picture


def clean_sources() -> list[np.ndarray]:
    pictures, facts, _ = drawn()
    return [pictures[[fact["quality"] == "clean" for fact in facts]], real()[0], object_crops()]


def main() -> None:
    args = arguments(9000, __doc__ or "")
    sources, model = clean_sources(), Restorer()
    loop = Loop("restorer", model, args.steps, 1e-3, wd=0.0)

    def loss(step: int) -> Tensor:
        rng, _ = batch_rng("restorer", step)
        clean = [pick(sources, rng) for _ in range(16)]
        strength = rng.uniform(0, 1, 16)
        bad = [degrade(picture, s, rng) for picture, s in zip(clean, strength, strict=True)]
        fidelity = np.clip(1 - strength + rng.normal(0, 0.1, 16), 0, 1)
        with half():
            restored = model(tensor(bad), torch.from_numpy(fidelity).float())
        return distance(restored.float(), tensor(clean))

    if not args.export_only:
        loop.run(loss)
    save_module(loop.averaged(), "restorer")
    loop.record()


if __name__ == "__main__":
    main()
