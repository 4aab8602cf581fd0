"""ASPL of Anti-DreamBooth: alternate between training a surrogate on the photos and ascending its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method, Progress
from redcloak.ascent import ascend, quantise
from redcloak.backbone import restore
from redcloak.config import ProtectConfig
from redcloak.objectives import denoising
from redcloak.rng import derive
from redcloak.training import FineTune, Latents, Prior, trainable

METHOD = Method(
    title="ASPL (Anti-DreamBooth)",
    cite="Van Le et al., Anti-DreamBooth: Protecting Users from Personalized Text-to-Image Synthesis, ICCV 2023.",
    license="Apache-2.0 (the authors' code is AGPL-3.0; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(ProtectConfig):
    """Outer rounds, and the steps of each of their three parts. Defaults: the authors' script for SD 2.1."""

    rounds: int = Field(50, ge=1, description="outer rounds")
    clean_steps: int = Field(3, ge=0, description="surrogate steps on clean photos in a round, then discarded")
    ascent_steps: int = Field(6, ge=1, description="ascent steps in a round, on all photos at once")
    protected_steps: int = Field(3, ge=0, description="surrogate steps on the protected photos in a round, kept")
    step_size: float = Field(0.64, gt=0, description="ascent step in 8-bit steps (/255)")
    lr: float = Field(5e-7, gt=0, description="the surrogate's AdamW learning rate")
    batch: int = Field(1, ge=1, description="instance pictures in a surrogate step; as many class pictures")
    prior_weight: float = Field(1.0, ge=0, description="weight of the class pictures' loss")
    variant: Literal["paper", "released"] = Field(
        "paper",
        description="released: a new optimizer in every turn, and pictures taken as step % N, so that with three "
        "steps a turn only the first three photos are ever trained on",
    )


def aspl(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Alternating surrogate and perturbation learning, for ``rounds`` rounds:

        theta' <- clean_steps of DreamBooth on clean photos from theta      (discarded after the round)
        x      <- ascent_steps of signed ascent on L(theta', x)             (no random start)
        theta  <- protected_steps of DreamBooth on x from theta             (kept)

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos of a
    subject are protected together: the surrogate sees all of them. Clean photos: ``context.reference``, or the photos
    themselves. The surrogate is the suite's backbone, lent and restored in place.
    Random: the ascent's t and eps from ``generators[i]``, the surrogate's from a stream of all of them.

    Cite: Van Le et al., ICCV 2023, algorithm 1. License: Apache-2.0.
    """  # noqa: D415 - the algorithm belongs to the first sentence
    backbone, prompt = context.suite.backbone, context.subject.instance_prompt
    clean = Latents.of(backbone, images if context.reference is None else context.reference)
    stream = torch.Generator().manual_seed(derive(0, *[stream.initial_seed() for stream in generators]))
    protected = images
    with backbone.borrowed() as parameters:
        prior = _prior(config, context)
        tuning = FineTune(backbone, prompt, lr=config.lr, prior=prior, batch=config.batch)
        for turn in range(config.rounds):
            kept = [parameter.detach().clone() for parameter in parameters]
            scout = FineTune(backbone, prompt, lr=config.lr, prior=prior, batch=config.batch)
            _train(scout, clean, config.clean_steps, stream, config)
            protected = ascend(
                protected,
                images,
                denoising(backbone, prompt),
                generators,
                budget=config.ball,
                step_size=config.step_size / 255,
                steps=config.ascent_steps,
                progress=_turn(context, turn + 1, config.rounds),
            )
            restore(parameters, kept)
            _train(tuning, Latents.of(backbone, protected), config.protected_steps, stream, config)
    return quantise(protected, images, config.ball)


def _turn(context: Context, turn: int, rounds: int) -> Progress:
    return lambda done, total, values: context.progress(turn, rounds, values)


def _prior(config: Config, context: Context) -> Prior | None:
    if context.class_images is None or config.prior_weight == 0 or not len(context.class_images):
        return None
    latents = Latents.of(context.suite.backbone, context.class_images)
    return Prior(latents, context.subject.class_prompt, config.prior_weight)


def _train(tuning: FineTune, latents: Latents, steps: int, stream: Generator, config: Config) -> None:
    """A turn of the surrogate, on random photos (paper) or on those that the released code indexes."""
    if config.variant == "paper":
        tuning.train(latents, steps, stream)
        return
    tuning.forget()
    with trainable(tuning.parameters):
        for step in range(steps):
            index = torch.arange(step * config.batch, (step + 1) * config.batch) % len(latents.mean)
            tuning.step(latents.take(index, stream), stream)
