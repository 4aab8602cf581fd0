"""Harmful for the latents, unmoved for CLIP (intervention): what is left of a protection without misalignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.crafting.balls import random_start
from redcloak.crafting.constrained import ConstrainedConfig, constrained, within
from redcloak.crafting.embeddings import View, embedding_distance, latent_shift
from redcloak.crafting.objectives import denoising

METHOD = Method(
    title="Latents-only perturbation (intervention)",
    cite="The converse of clip_only: AdvDM (Liang et al., ICML 2023) with the CLIP embedding held.",
    stochastic=True,
    needs=("backbone", "clip"),
)


class Config(ConstrainedConfig):
    """What is ascended, and how little the embedding may move."""

    objective: Literal["denoising", "distance"] = Field(
        "denoising", description="denoising: the training loss, as AdvDM; distance: of the latents from the photo's"
    )
    view: View = Field("both", description="whose embedding is held: the photo's, its round trip's, both")
    tolerance: float = Field(0.1, gt=0, description="largest distance of the unit embeddings; 0.1: a cosine of 0.995")


def latents_only(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Maximise the training loss (or ``rms(E(x) - E(x_0))``) subject to ``|e(x) - e(x_0)| <= tolerance``.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget; each image on its own.
    The bound holds for the cosine with every text, the class prompt's among them. Random: the start, uniform in the
    ball, and the draws of the training loss, from ``generators[i]``.

    Cite: Liang et al., ICML 2023, algorithm 1; an intervention asked for by the referees of arXiv 2406.18944; method of
    multipliers. License: Apache-2.0.
    """
    suite = context.suite
    still = within(embedding_distance(suite, images, config.view), config.tolerance)
    if config.objective == "denoising":
        aim = denoising(suite.backbone, context.subject.class_prompt)
    else:
        aim = latent_shift(suite, images)
    start = random_start(images, config.ball, generators)
    return constrained(start, images, aim, still, generators, config, context)
