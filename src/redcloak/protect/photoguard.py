"""PhotoGuard, encoder attack: pull the autoencoder's latents of the photo to those of a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.ascent import ascend, constant, decaying, quantise, random_start
from redcloak.config import ProtectConfig
from redcloak.objectives import encoder_distance

METHOD = Method(
    title="PhotoGuard (encoder)",
    cite="Salman et al., Raising the Cost of Malicious AI-Powered Image Editing, ICML 2023.",
    license="Apache-2.0 (the authors' notebooks are MIT; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(ProtectConfig):
    """Budget, steps and target of the encoder attack."""

    steps: int = Field(100, ge=1, description="ascent steps (the authors' notebook: 1000)")
    step_size: float = Field(1.0, gt=0, description="first step in 8-bit steps (/255)")
    target: Literal["zero", "grey"] = Field("zero", description="the latents aimed at: zero, or those of a grey image")
    decay: bool = Field(True, description="shrink the step linearly to a hundredth, as the authors' notebook does")


def photoguard(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Minimise ``||E(x + d) - z_target||_2`` over ``|d|_inf <= budget`` by signed gradient steps.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget; each image on its own.
    Random: the start, uniform in the ball, from ``generators[i]``.

    Cite: Salman et al., ICML 2023, equation 2. License: Apache-2.0.
    """
    backbone = context.suite.backbone
    with torch.no_grad():
        grey = backbone.encode(torch.full_like(images, 0.5))
    target = torch.zeros_like(grey) if config.target == "zero" else grey
    result = ascend(
        random_start(images, config.ball, generators),
        images,
        encoder_distance(backbone, target),
        generators,
        budget=config.ball,
        step_size=config.step_size / 255,
        steps=config.steps,
        schedule=decaying if config.decay else constant,
        progress=context.progress,
    )
    return quantise(result, images, config.ball)
