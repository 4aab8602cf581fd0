"""Score-distillation protection: the gradient of the training loss without the UNet's Jacobian."""

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
from redcloak.crafting.balls import quantise
from redcloak.crafting.objectives import encoder_error, score_distillation, weighted
from redcloak.crafting.targets import target_image

METHOD = Method(
    title="Score-distillation protection",
    cite="Xue et al., Toward Effective Protection Against Diffusion-Based Mimicry through Score Distillation, "
    "ICLR 2024.",
    license="Apache-2.0 (the authors' code has no licence; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(AscentConfig):
    """Direction, and the texture term of the fused form."""

    direction: Literal["plus", "minus"] = Field("minus", description="minus descends, as the paper recommends")
    texture: float = Field(0.0, ge=0, description="weight of Mist's texture term; the paper's SDST is 0.2")
    target: Path | None = Field(None, description="the texture; by default a tiled pattern")


def sds(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Follow ``J_E(x)^T (eps_theta(z_t, t, c) - eps)`` up or down, with the pull to a texture where it has a weight.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget; each image on its own.
    No random start. Random: t, eps and the posterior of each step, from ``generators[i]``.

    Cite: Xue et al., ICLR 2024, equation 8 (SDS) and its fused form with Mist (SDST). License: Apache-2.0.
    """
    backbone = context.suite.backbone
    sign = 1.0 if config.direction == "plus" else -1.0
    terms = [(sign, score_distillation(backbone, context.subject.class_prompt))]
    if config.texture:
        with torch.no_grad():
            latents = backbone.encode(target_image(config.target, images))
        terms.append((config.texture, encoder_error(backbone, latents)))
    result = ascend(images, images, weighted(*terms), generators, config.plan, context)
    return quantise(result, images, config.ball)
