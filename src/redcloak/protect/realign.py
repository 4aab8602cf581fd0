"""A protection with its misalignment undone (intervention): CLIP sees the clean photo again, the trainer does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Kind, Method
from redcloak.config import Choice, MethodChoice
from redcloak.crafting.constrained import ConstrainedConfig, constrained, within
from redcloak.crafting.embeddings import View, embedding_distance, latent_shift
from redcloak.crafting.objectives import EVERY, Objective, Rows, negated
from redcloak.protect.transplant import perturbation
from redcloak.rng import generator

METHOD = Method(
    title="Re-aligned protection (intervention)",
    cite="An intervention on the claim of Liu et al., arXiv 2406.18944, section 4.1: misalignment alone removed.",
    stochastic=True,
    needs=("backbone", "clip"),
)


class Config(ConstrainedConfig):
    """Whose misalignment is undone, in whose eyes, and what stays as it is."""

    base: MethodChoice = Field(Choice(name="advdm"), description="the protection that is re-aligned")
    view: View = Field("photo", description="what CLIP looks at: the photo, its round trip, both")
    keeps: Literal["latents", "size"] = Field(
        "latents", description="latents: they stay where the base put them; size: they stay as far from the photo's"
    )
    tolerance: float = Field(
        0.05, gt=0, lt=1, description="latents: rms that they may move; size: share of the shift that may be lost"
    )

    def parts(self) -> tuple[tuple[Kind, Choice], ...]:
        """The protection."""
        return (("protect", self.base),)


def realign(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Protect, then minimise ``|e(x) - e(x_0)|`` inside the same budget while the latents' shift is kept.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos are
    protected together where the base does so. With ``keeps=latents`` the trainer is given the latents of the base
    within ``tolerance``, and only what CLIP sees of the photo changes; what it sees of the round trip needs
    ``keeps=size``. Random: what the base draws from ``generators[i]``.

    Cite: an intervention asked for by the referees of arXiv 2406.18944; method of multipliers. License: Apache-2.0.
    """
    suite = context.suite
    start = images + perturbation(images, config.base, config, context, generators)
    lost = latent_shift(suite, start) if config.keeps == "latents" else _share_lost(latent_shift(suite, images), start)
    still = within(lost, config.tolerance)
    streams = [generator(stream.initial_seed(), "realign") for stream in generators]
    aim = negated(embedding_distance(suite, images, config.view))
    return constrained(start, images, aim, still, streams, config, context)


@torch.no_grad()
def _share_lost(shift: Objective, start: Tensor) -> Objective:
    """How much smaller a shift is than at ``start``, as a share of it; negative where it grew."""
    reached = torch.cat([shift(start[row : row + 1], [], slice(row, row + 1)) for row in range(len(start))])

    def lost(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        return 1 - shift(images, generators, rows) / reached[rows]

    return lost
