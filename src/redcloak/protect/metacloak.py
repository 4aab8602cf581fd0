"""MetaCloak: ascend over a pool of surrogates at all stages of their training, through random transformations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.crafting.balls import quantise
from redcloak.crafting.objectives import denoising, through
from redcloak.crafting.surrogate import RoundsConfig, Surrogate, Variant, climber, loop_state, resumed, stream_of
from redcloak.crafting.transforms import flip_and_blur
from redcloak.memory import Aside
from redcloak.training.finetuning import Latents

METHOD = Method(
    title="MetaCloak",
    cite="Liu et al., MetaCloak: Preventing Unauthorized Subject-driven Text-to-image Diffusion-based Synthesis via "
    "Meta-learning, CVPR 2024.",
    license="Apache-2.0 (written from the paper; the authors' code is Apache-2.0)",
    stochastic=True,
    needs=("backbone",),
)


class Config(RoundsConfig):
    """The pool, the trials, and the ascent. Defaults: the authors' script (14,400 ascent steps)."""

    train_steps: int = Field(1000, ge=1, description="surrogate steps on the photos, for the pool")
    snapshots: int = Field(6, ge=1, le=20, description="how many moments of that training are kept, evenly spread")
    rounds: int = Field(4, ge=1, description="passes over the pool (the paper's trials)")
    unroll: int = Field(100, ge=1, description="turns from each snapshot: ascend, then train")
    ascent_steps: int = Field(6, ge=1, description="ascent steps in a turn")
    advance_steps: int = Field(2, ge=0, description="surrogate steps on the protected photos in a turn")
    step_size: float = Field(1.1, gt=0, description="ascent step in 8-bit steps (/255)")
    variant: Variant = Field(
        "paper",
        description="released: surrogates are trained on photos in 0..255, which the encoder takes for noise, and "
        "with a new optimizer in every turn",
    )


def metacloak(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """From each snapshot of a surrogate's training: turns of ascent through flips and blurs, then of training.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos of a
    subject are protected together: the surrogates see all of them. The authors' code feeds its surrogates photos in
    0..255, where [-1, 1] is meant: ``released`` does the same. Their resizing and cropping are identities at the
    suite's resolution. Resumes inside a pass.
    Random: t, eps, flips and blurs from ``generators[i]``, the training's from a stream of all of them.

    Cite: Liu et al., CVPR 2024, algorithm 1. License: Apache-2.0.
    """
    backbone, turns = context.suite.backbone, config.snapshots * config.unroll
    with backbone.borrowed():
        surrogate = Surrogate(backbone, context, config, stream_of(generators))
        pool = _pool(surrogate, _seen(surrogate, images, config), config)
        protected, first = resumed(images, surrogate, generators, context)
        climb = climber(images, config.plan, context, generators, config.rounds * turns)
        for turn in range(first, config.rounds * turns):
            if turn % config.unroll == 0:
                pool[turn % turns // config.unroll].restore(surrogate.parameters)
            if turn % config.unroll == 0 or config.variant == "released":
                surrogate.tuning.forget()
            loss = through(denoising(backbone, surrogate.prompt), flip_and_blur)
            with surrogate.tuning.idle():
                protected = climb(protected, loss, turn)
            surrogate.learn(_seen(surrogate, protected, config), config.advance_steps)
            context.checkpoint.save(partial(loop_state, protected, turn + 1, generators, surrogate))
    return quantise(protected, images, config.ball)


def _pool(surrogate: Surrogate, photos: Latents, config: Config) -> list[Aside]:
    """The parameters at evenly spread moments of a training: at its beginning first, at its end last."""
    moments = [round(config.train_steps * index / max(1, config.snapshots - 1)) for index in range(config.snapshots)]
    pool, done = [], 0
    for moment in moments:
        surrogate.learn(photos, moment - done)
        pool.append(surrogate.values())
        done = moment
    return pool


def _seen(surrogate: Surrogate, photos: Tensor, config: Config) -> Latents:
    """The latents that a surrogate is trained on."""
    return surrogate.latents(photos, _in_bytes if config.variant == "released" else None)


def _in_bytes(photos: Tensor) -> Tensor:
    """What gives the encoder, which doubles and shifts, photos in 0..255."""
    return (255 * photos + 1) / 2
