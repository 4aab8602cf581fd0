"""A surrogate: the suite's backbone, personalized as the victim's trainer would do it, that a protection is crafted on.

The backbone itself is trained, in place, and put back afterwards; no module is ever copied. What a protection needs of
an earlier state is the values of the trainable parameters, and one optimizer lives as long as its surrogate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak import rng
from redcloak.api import Context
from redcloak.backbone import Backbone
from redcloak.config import ProtectConfig
from redcloak.crafting.ascent import Diverged, ascend
from redcloak.crafting.objectives import Objective
from redcloak.crafting.rules import Plan
from redcloak.memory import Aside
from redcloak.prompts import NONE
from redcloak.training.finetuning import FineTune, Latents, Prior, trainable

Variant = Literal["paper", "released"]


class SurrogateConfig(ProtectConfig):
    """How a surrogate is trained. Defaults: Anti-DreamBooth's scripts for Stable Diffusion 2.1."""

    lr: float = Field(5e-7, gt=0, description="the surrogate's AdamW learning rate")
    batch: int = Field(1, ge=1, description="instance pictures in a surrogate step; as many class pictures")
    prior_weight: float = Field(1.0, ge=0, description="weight of the class pictures' loss")


class RoundsConfig(SurrogateConfig):
    """Rounds, and the ascent of each."""

    rounds: int = Field(50, ge=1, description="outer rounds")
    ascent_steps: int = Field(6, ge=1, description="ascent steps in a round, on all photos at once")
    step_size: float = Field(0.64, gt=0, description="ascent step in 8-bit steps (/255)")

    @property
    def plan(self) -> Plan:
        """The ascent of one round."""
        return Plan(self.ball, self.step_size / 255, self.ascent_steps)


class AlternatingConfig(RoundsConfig):
    """Rounds of training and ascending, and the steps of each of their three parts."""

    clean_steps: int = Field(3, ge=0, description="surrogate steps on clean photos in a round, then discarded")
    protected_steps: int = Field(3, ge=0, description="surrogate steps on the protected photos in a round, kept")


class Surrogate:
    """A backbone on loan, and the state of its training: parameters, optimizer, and a stream of random numbers.

    The prompts are those of the victim's trainer: with ``context.decoupling``, those of CDL. Photos are seen through
    ``context.lens``, as a red team would train on purified ones.
    """

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        config: SurrogateConfig,
        stream: Generator,
        variant: Variant = "paper",
    ) -> None:
        self.backbone, self.context, self.config, self.stream, self.variant = backbone, context, config, stream, variant
        words = context.decoupling or NONE
        self.prompt = words.instance(context.subject)
        self.prior = self._prior(words.prior(context.subject))
        self.tuning = self._tuning()
        self.parameters = self.tuning.parameters

    def _tuning(self) -> FineTune:
        return FineTune(self.backbone, self.prompt, lr=self.config.lr, prior=self.prior, batch=self.config.batch)

    def _prior(self, prompt: str) -> Prior | None:
        images, weight = self.context.class_images, self.config.prior_weight
        if images is None or weight == 0 or not len(images):
            return None
        return Prior(Latents.of(self.backbone, images), prompt, weight)

    def latents(self, photos: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> Latents:
        """The photos' latents, as they look through the lens and, behind it, after ``change``."""
        if self.context.lens:
            with torch.no_grad():
                seed = int(torch.randint(2**62, (), generator=self.stream))
                photos = self.context.lens(photos, rng.generators(seed, "lens", len(photos)))
        return Latents.of(self.backbone, change(photos) if change else photos)

    def clean_latents(self, photos: Tensor) -> Latents:
        """Those of the clean photos: ``context.reference``, or the photos themselves."""
        return self.latents(photos if self.context.reference is None else self.context.reference)

    def learn(self, latents: Latents, steps: int, tuning: FineTune | None = None) -> None:
        """Train on random photos; ``released``: with a new optimizer, on photos ``step % N``, as peers do."""
        tuning = tuning or self.tuning
        if self.variant == "paper":
            tuning.train(latents, steps, self.stream)
            return
        tuning.forget()
        batch = self.config.batch
        with trainable(tuning.parameters):
            for step in range(steps):
                index = torch.arange(step * batch, (step + 1) * batch)
                classes = index % len(self.prior.latents.mean) if self.prior else None
                tuning.step(latents.take(index % len(latents.mean), self.stream), self.stream, classes)

    def values(self) -> Aside:
        """The trainable parameters as they are now."""
        return Aside(self.parameters, self.backbone.memory)

    @contextmanager
    def discarded(self, latents: Latents, steps: int) -> Iterator[None]:
        """Train for the length of the block, with an optimizer of its own, and put the parameters back."""
        kept = self.values()
        with self.tuning.idle():
            self.learn(latents, steps, self._tuning())
            try:
                yield
            finally:
                kept.restore(self.parameters)

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, as flat tensors: the live ones, to be read at once."""
        return self.tuning.state(self.stream)

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up what :meth:`state` gave."""
        self.tuning.load(state, self.stream)


def stream_of(generators: Sequence[Generator], *labels: object) -> Generator:
    """One stream for what all photos share, named by the streams of all of them."""
    return torch.Generator().manual_seed(rng.derive(0, *labels, *[stream.initial_seed() for stream in generators]))


def alternate(
    images: Tensor,
    config: AlternatingConfig,
    context: Context,
    generators: Sequence[Generator],
    objective: Callable[[Surrogate], Objective],
    *,
    variant: Variant = "paper",
    climb: Callable[[Tensor, Objective, int], Tensor] | None = None,
) -> Tensor:
    """Alternating surrogate and perturbation learning, for ``rounds`` rounds:

        theta' <- clean_steps of DreamBooth on clean photos from theta      (discarded after the round)
        x      <- ascent_steps of signed ascent on L(theta', x)             (no random start)
        theta  <- protected_steps of DreamBooth on x from theta             (kept)

    The result is not yet on the lattice. Resumes from ``context.checkpoint``, round by round. ``climb`` replaces the
    ascent of a round: (images, objective, round) -> images.

    Cite: Van Le et al., "Anti-DreamBooth", ICCV 2023, algorithm 1 (ASPL).
    """  # noqa: D415 - the algorithm belongs to the first sentence
    backbone = context.suite.backbone
    with backbone.borrowed():
        surrogate = Surrogate(backbone, context, config, stream_of(generators), variant)
        clean = surrogate.clean_latents(images)
        follow = climb or climber(images, config.plan, context, generators, config.rounds)
        protected, first = resumed(images, surrogate, generators, context)
        for turn in range(first, config.rounds):
            with surrogate.discarded(clean, config.clean_steps):
                protected = follow(protected, objective(surrogate), turn)
            surrogate.learn(surrogate.latents(protected), config.protected_steps)
            context.checkpoint.save(partial(loop_state, protected, turn + 1, generators, surrogate))
    return protected


def loop_state(images: Tensor, turn: int, generators: Sequence[Generator], surrogate: Surrogate) -> dict[str, Tensor]:
    """The state of a loop over one surrogate after ``turn`` rounds."""
    return {"images": images, "round": torch.tensor(turn), **states(generators), **surrogate.state()}


def resumed(
    images: Tensor, surrogate: Surrogate, generators: Sequence[Generator], context: Context
) -> tuple[Tensor, int]:
    """The images and the round to go on from, surrogate and streams as they were; the beginning without a state."""
    kept = context.checkpoint.load()
    if not kept:
        return images, 0
    surrogate.load(kept)
    set_states(generators, kept)
    return kept["images"], int(kept["round"])


def climber(
    clean: Tensor, plan: Plan, context: Context, generators: Sequence[Generator], rounds: int
) -> Callable[[Tensor, Objective, int], Tensor]:
    """The ascent of a round, (images, objective, round) -> images; a :class:`Diverged` counts steps over all rounds."""

    def climb(images: Tensor, objective: Objective, turn: int) -> Tensor:
        try:
            return ascend(images, clean, objective, generators, plan, in_round(context, turn, rounds), together=True)
        except Diverged as error:
            raise Diverged(error.photo, turn * plan.steps + error.step, error.images) from None

    return climb


def in_round(context: Context, turn: int, rounds: int) -> Context:
    """The context of one round's ascent: progress counts rounds, and the checkpoint stays the loop's."""
    return replace(context, progress=lambda done, total, values: context.progress(turn + 1, rounds, values))


def states(generators: Sequence[Generator]) -> dict[str, Tensor]:
    """Where each photo's stream stands."""
    return {f"generator.{index}": stream.get_state() for index, stream in enumerate(generators)}


def set_states(generators: Sequence[Generator], state: dict[str, Tensor]) -> None:
    """Put each photo's stream where it stood."""
    for index, stream in enumerate(generators):
        stream.set_state(state[f"generator.{index}"])
