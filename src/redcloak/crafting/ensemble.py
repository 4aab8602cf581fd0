"""Several surrogates at once: different backbones, or one backbone trained from different random streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context
from redcloak.backbone import Backbone
from redcloak.crafting.surrogate import Surrogate, SurrogateConfig, set_states, states, stream_of
from redcloak.errors import UserError


class EnsembleConfig(SurrogateConfig):
    """Which surrogates, and how their results are joined."""

    surrogates: tuple[str, ...] = Field(
        (), description="suites or folders with a suite.yaml, beside the suite's own backbone"
    )
    copies: int = Field(
        2, ge=1, description="where no others are given: trainings of the one backbone, each on its own"
    )
    mode: Literal["average", "interleaved"] = Field(
        "average", description="average the images of all in each round, or take one surrogate a round in turn"
    )

    def suites(self) -> tuple[str, ...]:
        """The surrogates."""
        return self.surrogates


class Member:
    """A surrogate whose trained values are put into its backbone only while it is used.

    The moments of its optimizer are laid aside meanwhile, where memory is short.
    """

    def __init__(self, surrogate: Surrogate, shared: bool) -> None:
        self.surrogate = surrogate
        self.values = surrogate.values() if shared else None
        self.wake = surrogate.tuning.rest()

    @contextmanager
    def active(self) -> Iterator[Surrogate]:
        """The surrogate with its own values in place."""
        self.wake()
        try:
            with self._in_place():
                yield self.surrogate
        finally:
            self.wake = self.surrogate.tuning.rest()

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        if self.values is None:
            yield
            return
        before = self.surrogate.values()
        self.values.restore(self.surrogate.parameters)
        try:
            yield
            self.values = self.surrogate.values()
        finally:
            before.restore(self.surrogate.parameters)

    def state(self, name: str) -> dict[str, Tensor]:
        """Everything that a resumed run needs, under ``name``."""
        with self.active() as surrogate:
            return {f"{name}.{key}": value.clone() for key, value in surrogate.state().items()}

    def load(self, name: str, state: dict[str, Tensor]) -> None:
        """Take up what :meth:`state` gave."""
        with self.active() as surrogate:
            surrogate.load({k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")})


def ensemble_state(
    images: Tensor, turn: int, group: Sequence[Member], generators: Sequence[Generator]
) -> dict[str, Tensor]:
    """The state of an ensemble's loop after ``turn`` rounds."""
    found = {"images": images, "round": torch.tensor(turn), **states(generators)}
    for index, member in enumerate(group):
        found |= member.state(f"member{index}")
    return found


def ensemble_resumed(
    images: Tensor, group: Sequence[Member], generators: Sequence[Generator], context: Context
) -> tuple[Tensor, int]:
    """The images and the round to go on from, with every member and stream as it was; the beginning without a state."""
    kept = context.checkpoint.load()
    if not kept:
        return images, 0
    for index, member in enumerate(group):
        member.load(f"member{index}", kept)
    set_states(generators, kept)
    return kept["images"], int(kept["round"])


@contextmanager
def members(config: EnsembleConfig, context: Context, generators: Sequence[Generator]) -> Iterator[list[Member]]:
    """The surrogates of an ensemble, on loan for the length of the block."""
    backbones = [context.suite.backbone, *(_other(name, context) for name in config.surrogates)]
    shared = not config.surrogates
    if len({id(backbone) for backbone in backbones}) < len(backbones):
        raise UserError("surrogates: a model stands there twice; leave out the suite's own, or use copies.")
    places = backbones * config.copies if shared else backbones
    with ExitStack() as stack:
        for backbone in backbones:
            stack.enter_context(backbone.borrowed())
        yield [
            Member(Surrogate(backbone, context, config, stream_of(generators, index)), shared)
            for index, backbone in enumerate(places)
        ]


def merged(images: Sequence[Tensor]) -> Tensor:
    """The mean of the images: inside the budget, since the ball is convex."""
    return torch.stack(list(images)).mean(0)


def _other(name: str, context: Context) -> Backbone:
    from redcloak.suite import load

    suite = load(name, context.suite.machine)
    if suite.spec.resolution != context.suite.spec.resolution:
        raise UserError(
            f"surrogates: {name} works at {suite.spec.resolution} pixels and {context.suite.name} at "
            f"{context.suite.spec.resolution}; an ensemble needs one size."
        )
    return suite.backbone
