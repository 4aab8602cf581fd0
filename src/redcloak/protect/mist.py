"""Mist: a texture in the latents, the training loss, or both at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import AscentConfig
from redcloak.crafting.ascent import ascend
from redcloak.crafting.balls import quantise, random_start
from redcloak.crafting.objectives import Objective, denoising, encoder_error, weighted
from redcloak.crafting.targets import target_image

METHOD = Method(
    title="Mist",
    cite="Liang & Wu, Mist: Towards Improved Adversarial Examples for Diffusion Models, arXiv 2305.12683.",
    license="Apache-2.0 (the authors' code is GPL-3.0; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(AscentConfig):
    """Which of the three losses, and the texture."""

    mode: Literal["texture", "semantic", "fused"] = Field(
        "fused", description="texture: latents to a pattern's; semantic: the training loss (AdvDM); fused: both"
    )
    rate: float = Field(1.0, ge=0, description="fused: weight of the training loss against the mean latent error")
    target: Path | None = Field(None, description="a picture to take as texture; by default a tiled pattern")


def mist(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Minimise ``|E(x) - E(y)|^2 - rate * L(theta, x)`` for a texture ``y`` of high contrast.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget; each image on its own.
    Both terms are means here. The released code sums the first over the latent and weighs the second 1e4, which for
    its 64x64x4 latents is a rate of 0.6; its README has the numbers of the modes the other way round; and it crops the
    photo at random for the second term.
    Random: a uniform start, and t, eps and the posterior of each step, from ``generators[i]``.

    Cite: Liang & Wu, arXiv 2305.12683, equation 8. License: Apache-2.0.
    """
    backbone = context.suite.backbone
    with torch.no_grad():
        texture = backbone.encode(target_image(config.target, images))
    terms: list[tuple[float, Objective]] = []
    if config.mode != "semantic":
        terms.append((1.0, encoder_error(backbone, texture)))
    if config.mode != "texture":
        weight = config.rate if config.mode == "fused" else 1.0
        terms.append((weight, denoising(backbone, context.subject.class_prompt)))
    start = random_start(images, config.ball, generators)
    result = ascend(start, images, weighted(*terms), generators, config.plan, context)
    return quantise(result, images, config.ball)
