"""E-ASPL: ASPL over several surrogates, so that the protection does not lean on one model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.crafting.balls import quantise
from redcloak.crafting.ensemble import EnsembleConfig, ensemble_resumed, ensemble_state, members, merged
from redcloak.crafting.objectives import denoising
from redcloak.crafting.surrogate import AlternatingConfig, climber

METHOD = Method(
    title="E-ASPL (Anti-DreamBooth)",
    cite="Van Le et al., Anti-DreamBooth: Protecting Users from Personalized Text-to-Image Synthesis, ICCV 2023.",
    license="Apache-2.0 (the authors' code is AGPL-3.0; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(AlternatingConfig, EnsembleConfig):
    """ASPL's rounds, over the surrogates of an ensemble."""


def easpl(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """ASPL's round with each surrogate; ``average``: all from the same images, and the images averaged.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos of a
    subject are protected together: the surrogates see all of them. ``interleaved`` takes one surrogate a round in turn,
    which is how Liu et al. describe it; the authors' code averages.
    Random: the ascent's t and eps from ``generators[i]``, each surrogate's training from a stream of its own.

    Cite: Van Le et al., ICCV 2023, section 4.3. License: Apache-2.0.
    """
    with members(config, context, generators) as group:
        clean = [member.surrogate.clean_latents(images) for member in group]
        climb = climber(images, config.plan, context, generators, config.rounds)
        protected, first = ensemble_resumed(images, group, generators, context)
        for turn in range(first, config.rounds):
            chosen = range(len(group)) if config.mode == "average" else [turn % len(group)]
            results = []
            for index in chosen:
                with group[index].active() as surrogate, surrogate.discarded(clean[index], config.clean_steps):
                    results.append(climb(protected, denoising(surrogate.backbone, surrogate.prompt), turn))
            protected = merged(results)
            for index in chosen:
                with group[index].active() as surrogate:
                    surrogate.learn(surrogate.latents(protected), config.protected_steps)
            context.checkpoint.save(partial(ensemble_state, protected, turn + 1, group, generators))
    return quantise(protected, images, config.ball)
