"""Glaze, in its open form: pull the photo's latents to those of the same photo in another style."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import ProtectConfig
from redcloak.crafting.ascent import Diverged
from redcloak.crafting.balls import project, quantise, random_start
from redcloak.crafting.closeness import ClosenessConfig
from redcloak.memory import loss_scale

METHOD = Method(
    title="Glaze (open re-implementation)",
    cite="Shan et al., Glaze: Protecting Artists from Style Mimicry by Text-to-Image Models, USENIX Security 2023.",
    license="Apache-2.0 (Glaze itself is closed; written from the paper)",
    stochastic=True,
    needs=("backbone", "clip"),
)


class Config(ClosenessConfig, ProtectConfig):
    """The style, the perceptual bound, and the optimizer."""

    style: str = Field("a painting by van gogh", description="prompt of img2img that makes the target of each photo")
    strength: float = Field(0.5, gt=0, le=1, description="how far img2img goes from the photo")
    guidance: float = Field(7.5, ge=1, description="img2img: classifier-free guidance")
    steps: int = Field(500, ge=1, description="Adam steps")
    lr: float = Field(0.01, gt=0, description="Adam learning rate in [-1, 1] pixel units, constant")
    bound: float = Field(0.05, ge=0, description="perceptual distance that costs nothing")
    weight: float = Field(30.0, ge=0, description="cost of each unit beyond it")


def glaze(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Minimise ``|E(x + d) - E(x_style)|^2 + weight * max(LPIPS(x, x + d) - bound, 0)`` by Adam.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget; each image on its own.
    ``E`` is the encoder's mean, unscaled. ``x_style`` is img2img of the photo under the prompt ``style``. Glaze has no
    other bound than the perceptual one; here ``budget`` holds besides, so that it can be compared. LPIPS is the suite's
    perceptual distance, whose scale is not that of LPIPS on VGG, for which ``bound`` is meant; with ``lpips`` it is
    LPIPS itself, on photos of at least 64 pixels. Random: img2img's noise and a uniform start, from ``generators[i]``.

    Cite: Shan et al., USENIX Security 2023, equation 2. License: Apache-2.0.
    """
    done = [_cloak(images, row, config, context, stream) for row, stream in enumerate(generators)]
    return quantise(torch.cat(done), images, config.ball)


def _cloak(images: Tensor, row: int, config: Config, context: Context, stream: Generator) -> Tensor:
    """Photo ``row`` of ``images``, cloaked, not on the lattice."""
    backbone, lens, image = context.suite.backbone, context.lens, images[row : row + 1]
    with torch.no_grad():
        styled = backbone.edit(image, config.style, [stream], strength=config.strength, guidance=config.guidance)
        target, _ = backbone.posterior(styled)
    moved = random_start(image, config.ball, [stream]).requires_grad_(True)
    optimizer = torch.optim.Adam([moved], config.lr / 2)
    distance, scale = config.distance(context.suite), loss_scale(backbone.dtype)
    for step in range(config.steps):
        seen = lens(moved, [stream]) if lens else moved
        shift = (backbone.posterior(seen)[0] - target).pow(2).mean()
        loss = shift + config.weight * (distance(image, moved).sum() - config.bound).clamp_min(0)
        gradient = torch.autograd.grad(loss * scale, moved)[0] / scale
        if not (loss.isfinite() and gradient.isfinite().all()):
            raise Diverged(row, step, moved.detach())
        moved.grad = gradient
        optimizer.step()
        with torch.no_grad():
            moved.copy_(project(moved, image, config.ball))
        done = row * config.steps + step + 1
        context.progress(done, len(images) * config.steps, {"loss": -float(loss.detach())})
    return moved.detach()
