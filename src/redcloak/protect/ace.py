"""ACE (Mist v2): pull the predicted noise to one fixed picture, on a surrogate that follows the perturbation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.crafting.balls import quantise
from redcloak.crafting.objectives import (
    EVERY,
    Objective,
    Rows,
    embedded,
    encoder_error,
    negated,
    predicted_target,
    weighted,
)
from redcloak.crafting.surrogate import AlternatingConfig, Surrogate, Variant, alternate
from redcloak.crafting.targets import target_image
from redcloak.rng import randint, randn

METHOD = Method(
    title="ACE (Mist v2)",
    cite="Zheng et al., Targeted Attack Improves Protection against Unauthorized Diffusion Customization, ICLR 2025.",
    license="Apache-2.0 (the authors' code has no licence or forbids commercial use; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(AlternatingConfig):
    """Rounds, target and form. Defaults: the authors' script, but for the surrogate (theirs is LoRA at 1e-4)."""

    rounds: int = Field(5, ge=1, description="outer rounds")
    clean_steps: int = Field(0, ge=0, description="surrogate steps on clean photos in a round, then discarded")
    ascent_steps: int = Field(30, ge=1, description="ascent steps in a round")
    protected_steps: int = Field(10, ge=0, description="surrogate steps on the protected photos in a round, kept")
    mode: Literal["plain", "fused"] = Field(
        "plain", description="fused: ACE+, with the latents' distance to the target"
    )
    latent_weight: float = Field(100.0, ge=0, description="fused: weight of that distance")
    target: Path | None = Field(None, description="the target picture; by default a tiled pattern")
    variant: Variant = Field(
        "paper", description="released: Mist v2's fused loss, -<eps_hat, eps> + 100 |z - z_T|^2, whose signs differ"
    )


def ace(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Minimise ``|eps_theta(z_t, t, c) - z_T|^2``, fused: ``+ 100 |z - z_T|^2``, in rounds with a surrogate.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos of a
    subject are protected together: the surrogate is trained on all of them. All photos share the target, whose latents
    the model is to predict instead of the noise: a consistent error is learned better than a random one.
    Random: t, eps and the posterior of each step from ``generators[i]``, the surrogate's from a stream of all of them.

    Cite: Zheng et al., ICLR 2025, equations 5 and 6. License: Apache-2.0.
    """
    with torch.no_grad():
        target = context.suite.backbone.encode(target_image(config.target, images))

    def loss(surrogate: Surrogate) -> Objective:
        pull = predicted_target(surrogate.backbone, surrogate.prompt, target)
        if config.mode == "plain":
            return pull
        near = encoder_error(surrogate.backbone, target)
        if config.variant == "paper":
            return weighted((1.0, pull), (config.latent_weight, near))
        return weighted((1.0, _uncorrelated(surrogate)), (config.latent_weight, negated(near)))

    result = alternate(images, config, context, generators, loss)
    return quantise(result, images, config.ball)


def _uncorrelated(surrogate: Surrogate) -> Objective:
    """``-<eps_theta(z_t, t, c), eps>``, the first term of the released fused loss."""
    backbone, embedding = surrogate.backbone, embedded(surrogate.backbone, surrogate.prompt)

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        latents = backbone.encode(images, generators)
        times = randint(len(backbone.alphas_cumprod), generators).to(latents.device)
        noise = randn(latents, generators)
        noisy, _ = backbone.noised(latents, noise, times)
        guess = backbone.predicted_noise(noisy, times, embedding.expand(len(images), -1, -1))
        return -(guess * noise).sum((1, 2, 3))

    return loss
