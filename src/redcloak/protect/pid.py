"""PID: change the statistics that the encoder gives, with no prompt and no UNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import AscentConfig
from redcloak.crafting.ascent import ascend
from redcloak.crafting.balls import quantise, random_start
from redcloak.crafting.objectives import EVERY, Objective, Rows, of, one_by_one

METHOD = Method(
    title="PID",
    cite="Li et al., PID: Prompt-Independent Data Protection Against Latent Diffusion Models, ICML 2024.",
    license="Apache-2.0 (the authors' code has no licence; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(AscentConfig):
    """Which statistics are driven away from the photo's own."""

    steps: int = Field(200, ge=1, description="ascent steps (the authors' script: 1000)")
    loss: Literal["mean", "variance", "kl", "add", "add_log"] = Field(
        "add_log",
        description="squared error of the posterior's mean, of its variance, their KL, or mean + (log) variance",
    )


def pid(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Drive mean and variance of the encoder's posterior away from those of the clean photo.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget; each image on its own.
    The released code ignores its step size (it moves by 1/255) and saves the perturbation of step 975 of 1000: neither
    is kept. Random: a uniform start from ``generators[i]``, since the loss has no gradient at the photo itself.

    Cite: Li et al., ICML 2024, section 4. License: Apache-2.0.
    """
    start = random_start(images, config.ball, generators)
    result = ascend(start, images, _statistics(context, config, images), generators, config.plan, context)
    return quantise(result, images, config.ball)


def _statistics(context: Context, config: Config, clean: Tensor) -> Objective:
    backbone = context.suite.backbone
    mean, logvar = one_by_one(lambda image: torch.stack(backbone.posterior(image), 1), clean).unbind(1)

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        now, spread = backbone.posterior(images)
        then, before = of(mean, rows), of(logvar, rows)
        shift = (now - then).pow(2)
        value = {
            "mean": lambda: shift,
            "variance": lambda: (spread.exp() - before.exp()).pow(2),
            "kl": lambda: 0.5 * ((spread - before).exp() + shift / before.exp() - 1 - spread + before),
            "add": lambda: shift + (spread.exp() - before.exp()).pow(2),
            "add_log": lambda: shift + (spread - before).pow(2),
        }[config.loss]()
        return value.mean((1, 2, 3))

    return loss
