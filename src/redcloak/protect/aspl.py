"""ASPL of Anti-DreamBooth: alternate between training a surrogate on the photos and ascending its loss."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.crafting.balls import quantise
from redcloak.crafting.objectives import Objective, denoising
from redcloak.crafting.surrogate import AlternatingConfig, Surrogate, Variant, alternate

METHOD = Method(
    title="ASPL (Anti-DreamBooth)",
    cite="Van Le et al., Anti-DreamBooth: Protecting Users from Personalized Text-to-Image Synthesis, ICCV 2023.",
    version=2,
    license="Apache-2.0 (the authors' code is AGPL-3.0; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(AlternatingConfig):
    """Outer rounds, and the steps of each of their three parts. Defaults: the authors' script for SD 2.1."""

    variant: Variant = Field(
        "paper",
        description="released: a new optimizer in every turn, and pictures taken as step % N, so that with three "
        "steps a turn only the first three photos are ever trained on",
    )


def aspl(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Alternating surrogate and perturbation learning (:mod:`redcloak.crafting.surrogate`) on the training loss.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos of a
    subject are protected together: the surrogate sees all of them. Clean photos: ``context.reference``, or the photos
    themselves. The surrogate is the suite's backbone, lent and restored in place.
    Random: the ascent's t and eps from ``generators[i]``, the surrogate's from a stream of all of them.

    Cite: Van Le et al., ICCV 2023, algorithm 1. License: Apache-2.0.
    """
    result = alternate(images, config, context, generators, _loss, variant=config.variant)
    return quantise(result, images, config.ball)


def _loss(surrogate: Surrogate) -> Objective:
    return denoising(surrogate.backbone, surrogate.prompt)
