"""AdvDM: ascend the training loss of a frozen, pretrained latent-diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import AscentConfig
from redcloak.crafting.ascent import ascend
from redcloak.crafting.balls import quantise, random_start
from redcloak.crafting.objectives import denoising, negated

METHOD = Method(
    title="AdvDM",
    cite="Liang et al., Adversarial Example Does Good: Preventing Painting Imitation, ICML 2023.",
    version=2,
    license="Apache-2.0 (peers' code is GPL-3.0 or has no licence; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(AscentConfig):
    """Budget, steps and direction."""

    draws: int = Field(1, ge=1, description="(t, noise) draws averaged in each step, from one encoder pass")
    direction: Literal["plus", "minus"] = Field("plus", description="plus ascends the loss; minus descends it")


def advdm(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Maximise ``E_{t,eps} |eps_theta(z_t, t, c) - eps|^2`` over the budget, one draw each step.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget; each image on its own.
    The prompt is the class prompt. Random: a uniform start, and t, eps and the posterior of each step, from
    ``generators[i]``.

    Cite: Liang et al., ICML 2023, algorithm 1. License: Apache-2.0.
    """
    loss = denoising(context.suite.backbone, context.subject.class_prompt, draws=config.draws)
    objective = loss if config.direction == "plus" else negated(loss)
    start = random_start(images, config.ball, generators)
    return quantise(ascend(start, images, objective, generators, config.plan, context), images, config.ball)
