"""PhotoGuard: pull the autoencoder's latents of the photo, or the pictures edited from it, to a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.backbone import Backbone
from redcloak.config import AscentConfig
from redcloak.crafting.ascent import ascend, group_size
from redcloak.crafting.balls import quantise, random_start
from redcloak.crafting.objectives import EVERY, Objective, Rows, drawn_again, encoder_distance
from redcloak.crafting.rules import constant, decaying

METHOD = Method(
    title="PhotoGuard",
    cite="Salman et al., Raising the Cost of Malicious AI-Powered Image Editing, ICML 2023.",
    version=2,
    license="Apache-2.0 (the authors' notebooks are MIT; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(AscentConfig):
    """Which of the paper's two perturbations, and towards what. Authors' notebooks: 1000 steps and 200."""

    mode: Literal["encoder", "diffusion"] = Field(
        "encoder", description="encoder: the latents; diffusion: the picture that img2img makes of the photo"
    )
    target: Literal["zero", "grey"] = Field("zero", description="encoder: the latents aimed at, zero or a grey image's")
    decay: bool = Field(True, description="shrink the step linearly to a hundredth, as the authors' notebook does")
    denoising_steps: int = Field(4, ge=1, description="diffusion: denoising steps that the gradient goes through")
    repeats: int = Field(2, ge=1, description="diffusion: edits averaged in a step (the authors' notebook: 10)")


def photoguard(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Encoder: minimise ``||E(x + d) - z_target||_2``; diffusion: minimise ``||edit(x + d) - grey||_2``.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget; each image on its own.
    The diffusion form differentiates through a few denoising steps of img2img with an empty prompt; the authors' goes
    through inpainting, which the suites have no model for, with noise in its sampler, inside an L2 ball (``norm``).
    Random: the start, uniform in the ball, and the edits' noise, from ``generators[i]``.

    Cite: Salman et al., ICML 2023, equations 2 and 3. License: Apache-2.0.
    """
    backbone = context.suite.backbone
    plan = replace(config.plan, schedule=decaying if config.decay else constant)
    objective = _edited(backbone, config) if config.mode == "diffusion" else _encoded(backbone, config, images)
    start = random_start(images, config.ball, generators)
    return quantise(ascend(start, images, objective, generators, plan, context), images, config.ball)


def _encoded(backbone: Backbone, config: Config, images: Tensor) -> Objective:
    with torch.no_grad():
        grey = backbone.encode(torch.full_like(images[:1], 0.5))
    return encoder_distance(backbone, torch.zeros_like(grey) if config.target == "zero" else grey)


def _edited(backbone: Backbone, config: Config) -> Objective:
    def distance(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        edited = backbone.edit(
            images, "", generators, steps=config.denoising_steps, strength=1.0, guidance=1.0, clamp=False
        )
        far: Tensor = (edited - 0.5).flatten(1).norm(dim=1)
        return far

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        # The graphs of all edits of a large photo are not held together: each is drawn again for its gradient.
        ask = distance if group_size(images) > 1 else partial(drawn_again, distance)
        return -torch.stack([ask(images, generators) for _ in range(config.repeats)]).mean(0)

    return loss
