"""Random noise of the same budget: the control that separates a protection from mere noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import ProtectConfig
from redcloak.crafting.balls import quantise
from redcloak.rng import rand, randn

METHOD = Method(
    title="Random noise (control)",
    cite="Liu et al., arXiv 2406.18944, section 4.1: random noise of equal strength is claimed to be harmless.",
    stochastic=True,
)


class Config(ProtectConfig):
    """Budget and distribution of the noise."""

    distribution: Literal["sign", "uniform", "gaussian"] = Field(
        "sign",
        description="sign: every value at the radius, the most that L_inf allows; uniform: anywhere "
        "inside; gaussian: half the radius as standard deviation, cut at the radius",
    )


def random_noise(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Add independent noise of size ``config.budget`` to every pixel and channel.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. Random: the noise of
    image ``i``, from ``generators[i]``.

    Cite: the control of Liu et al., arXiv 2406.18944, section 4.1. License: Apache-2.0.
    """
    gaussian = config.distribution == "gaussian"
    noise = randn(images, generators) / 2 if gaussian else 2 * rand(images, generators) - 1
    if config.distribution == "sign":
        noise = noise.sign()
    if config.norm == "l2":
        noise = noise / noise.flatten(1).pow(2).mean(1).sqrt().view(-1, 1, 1, 1)
    return quantise(images + config.ball.radius * noise, images, config.ball)
