"""E-FSMG: FSMG over several surrogates, each trained on clean photos once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.crafting.balls import quantise
from redcloak.crafting.ensemble import EnsembleConfig, ensemble_resumed, ensemble_state, members, merged
from redcloak.crafting.objectives import denoising
from redcloak.crafting.surrogate import RoundsConfig, climber

METHOD = Method(
    title="E-FSMG (Anti-DreamBooth)",
    cite="Van Le et al., Anti-DreamBooth: Protecting Users from Personalized Text-to-Image Synthesis, ICCV 2023.",
    license="Apache-2.0 (the authors' code is AGPL-3.0; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(RoundsConfig, EnsembleConfig):
    """The surrogates' training, and rounds of ascent. Defaults: the authors' script."""

    train_steps: int = Field(1000, ge=0, description="steps of each surrogate on clean photos")
    rounds: int = Field(60, ge=1, description="outer rounds")
    ascent_steps: int = Field(12, ge=1, description="ascent steps in a round and surrogate")


def efsmg(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Train each surrogate, then rounds of ascent on each, whose images are averaged or taken in turn.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos of a
    subject are protected together: the surrogates see all of them.
    Random: the ascent's t and eps from ``generators[i]``, each surrogate's training from a stream of its own.

    Cite: Van Le et al., ICCV 2023, section 4.3. License: Apache-2.0.
    """
    with members(config, context, generators) as group:
        protected, first = ensemble_resumed(images, group, generators, context)
        for member in group if first == 0 else ():
            with member.active() as surrogate:
                surrogate.learn(surrogate.clean_latents(images), config.train_steps)
                surrogate.tuning.forget()  # it trains no more, and the ascent needs the room
        climb = climber(images, config.plan, context, generators, config.rounds)
        for turn in range(first, config.rounds):
            chosen = group if config.mode == "average" else [group[turn % len(group)]]
            results = []
            for member in chosen:
                with member.active() as surrogate:
                    results.append(climb(protected, denoising(surrogate.backbone, surrogate.prompt), turn))
            protected = merged(results)
            context.checkpoint.save(partial(ensemble_state, protected, turn + 1, group, generators))
    return quantise(protected, images, config.ball)
