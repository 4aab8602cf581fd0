"""IMPRESS: move the picture until the autoencoder reproduces it, without moving it far."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.crafting.ascent import group_size
from redcloak.crafting.closeness import ClosenessConfig
from redcloak.memory import loss_scale
from redcloak.padding import on_grid
from redcloak.rng import randn

METHOD = Method(
    title="IMPRESS",
    cite="Cao et al., IMPRESS: Evaluating the Resilience of Imperceptible Perturbations, NeurIPS 2023.",
    license="Apache-2.0 (the authors' code has no licence; written from the paper)",
    stochastic=True,
    needs=("backbone", "clip"),
)


class Config(ClosenessConfig):
    """The optimisation. Defaults: the authors' README for style cloaks."""

    steps: int = Field(3000, ge=1, description="Adam steps")
    lr: float = Field(0.01, gt=0, description="of Adam, for pixels in [-1, 1]; falls to 1e-5 on a cosine")
    weight: float = Field(0.1, ge=0, description="of the perceptual penalty")
    allowed: float = Field(0.1, ge=0, description="perceptual distance to the input that costs nothing")
    noise: float = Field(0.1, ge=0, description="standard deviation of the noise it starts from, for pixels in [-1, 1]")


def impress(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Minimise the autoencoder's inconsistency near the picture, by Adam from a noisy copy:

        min_x  |D(E(x)) - x|^2 + weight * max(d(x, x_0) - allowed, 0),    x = x_0 + noise * n at first

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. d is the suite's perceptual distance, whose scale is not that
    of the authors' LPIPS on VGG, for which ``allowed`` is meant; with ``lpips`` it is LPIPS, on photos of at least 64
    pixels. Adam's moments are each pixel's own, and a picture's loss is its own mean: pictures do not touch each other.
    Random: n and each step's posterior, from ``generators[i]``.

    Cite: Cao et al., NeurIPS 2023, equation 3. License: Apache-2.0.
    """  # noqa: D415 - the algorithm belongs to the first sentence
    size, done = group_size(images), 0

    def purified(padded: Tensor) -> Tensor:
        rows = []
        for first in range(0, len(padded), size):
            part, streams = padded[first : first + size], list(generators)[first : first + size]
            rows.append(_optimise(part, config, context, streams, (done + first, len(padded))))
        return torch.cat(rows)

    return on_grid(purified, images, context.suite.backbone.factor)


def _optimise(
    origin: Tensor, config: Config, context: Context, streams: Sequence[Generator], place: tuple[int, int]
) -> Tensor:
    backbone, distance = context.suite.backbone, config.distance(context.suite)
    # The settings are for pixels in [-1, 1], whose gradients are half as large; ours are in [0, 1].
    half, scale = 0.5 * config.noise, loss_scale(backbone.dtype)
    with torch.enable_grad():
        moved = (origin + half * randn(origin, streams)).clamp(0, 1).requires_grad_(True)
        adam = torch.optim.Adam([moved], lr=0.5 * config.lr, eps=2e-5)
        for step in range(config.steps):
            share = 0.5 * (1 + math.cos(math.pi * step / config.steps))
            adam.param_groups[0]["lr"] = 0.5 * (1e-5 + (config.lr - 1e-5) * share)
            back = backbone.decode(backbone.encode(moved, streams), clamp=False).to(moved)
            unlike = 4 * (back - moved).pow(2).mean((1, 2, 3))
            far = (distance(moved, origin) - config.allowed).clamp_min(0)
            (slope,) = torch.autograd.grad((unlike + config.weight * far).sum() * scale, moved)
            moved.grad = slope / scale
            adam.step()
            moved.data.clamp_(0, 1)
            _tell(context, config, place, step, len(origin), unlike)
    return moved.detach()


def _tell(context: Context, config: Config, place: tuple[int, int], step: int, count: int, unlike: Tensor) -> None:
    first, total = place
    done = first * config.steps + count * (step + 1)
    context.progress(done, total * config.steps, {"loss": float(unlike.detach().mean())})
