"""Misaligned for CLIP, unmoved for the autoencoder (intervention): what misalignment does on its own."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.crafting.balls import random_start
from redcloak.crafting.constrained import ConstrainedConfig, constrained, within
from redcloak.crafting.embeddings import View, latent_shift, text_preference

METHOD = Method(
    title="CLIP-only perturbation (intervention)",
    cite="An intervention on the claim of Liu et al., arXiv 2406.18944, section 4.1, that its referees asked for.",
    stochastic=True,
    needs=("backbone", "clip"),
)


class Config(ConstrainedConfig):
    """Which words CLIP is led to, in whose eyes, and how little the latents may move."""

    noise: str = Field("a photo of noise", min_length=1, description="the text that the embedding is pushed to")
    view: View = Field(
        "photo", description="what CLIP looks at: the photo, its round trip through the autoencoder, both"
    )
    tolerance: float = Field(0.05, gt=0, description="largest root mean square of the shift of the scaled latents")


def clip_only(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Maximise ``cos(e(x), noise) - cos(e(x), class prompt)`` subject to ``rms(E(x) - E(x_0)) <= tolerance``.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget; each image on its own.
    A trainer that reads latents alone can learn nothing from a misalignment that leaves them where they are; with
    ``view=decoded`` the little they may move is spent on what the decoded photo looks like to CLIP. Random: the start,
    uniform in the ball, from ``generators[i]``.

    Cite: an intervention asked for by the referees of arXiv 2406.18944; method of multipliers. License: Apache-2.0.
    """
    suite = context.suite
    still = within(latent_shift(suite, images), config.tolerance)
    aim = text_preference(suite, config.noise, context.subject.class_prompt, config.view)
    start = random_start(images, config.ball, generators)
    return constrained(start, images, aim, still, generators, config, context)
