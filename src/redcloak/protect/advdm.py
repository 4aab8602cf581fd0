"""AdvDM: ascend the training loss of a frozen, pretrained latent-diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.ascent import ascend, quantise, random_start
from redcloak.config import ProtectConfig
from redcloak.objectives import Objective, denoising

METHOD = Method(
    title="AdvDM",
    cite="Liang et al., Adversarial Example Does Good: Preventing Painting Imitation, ICML 2023.",
    license="Apache-2.0 (peers' code is GPL-3.0 or has no licence; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(ProtectConfig):
    """Budget, steps and direction."""

    steps: int = Field(100, ge=1, description="ascent steps")
    step_size: float = Field(1.0, gt=0, description="step in 8-bit steps (/255)")
    draws: int = Field(1, ge=1, description="(t, noise) draws averaged in each step, from one encoder pass")
    direction: Literal["plus", "minus"] = Field("plus", description="plus ascends the loss; minus descends it")


def advdm(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Maximise ``E_{t,eps} |eps_theta(z_t, t, c) - eps|^2`` over ``|d|_inf <= budget``, one draw each step.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget; each image on its own.
    The prompt is the class prompt. Random: a uniform start, and t, eps and the posterior of each step, from
    ``generators[i]``.

    Cite: Liang et al., ICML 2023, algorithm 1. License: Apache-2.0.
    """
    loss = denoising(context.suite.backbone, context.subject.class_prompt, draws=config.draws)
    result = ascend(
        random_start(images, config.ball, generators),
        images,
        loss if config.direction == "plus" else _negated(loss),
        generators,
        budget=config.ball,
        step_size=config.step_size / 255,
        steps=config.steps,
        progress=context.progress,
    )
    return quantise(result, images, config.ball)


def _negated(objective: Objective) -> Objective:
    def loss(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        return -objective(images, generators)

    return loss
