"""Purifiers as lenses: what an adaptive protection ascends through.

A differentiable purifier is differentiated, where the models in its suite's slots let gradients pass; any other is run
as it is and its gradient taken for its stand-in's, or, where it has none, for the identity's (straight-through, BPDA).
Its randomness comes from the photo's own generator, so that a step sees another draw.

Cite: Athalye et al., "Obfuscated Gradients Give a False Sense of Security", ICML 2018 (BPDA, EOT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from redcloak import registry
from redcloak.api import Context, Lens
from redcloak.config import Choice, MethodConfig
from redcloak.crafting.objectives import denoising, through, value_and_gradient
from redcloak.rng import derive, rand

Gradient = Literal["exact", "straight_through"]


@dataclass(frozen=True)
class ChainLens:
    """A chain of purifiers, one after the other."""

    chain: tuple[Choice, ...]
    context: Context
    gradient: Gradient = "exact"

    def __call__(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        """Images ``(N, 3, H, W)`` in [0, 1] -> purified images, with a gradient."""
        for choice in self.chain:
            entry = registry.load("purify", choice.name)
            settings = entry.configure(**self.context.suite.settings(choice.name, choice.settings))
            if self.gradient == "exact" and self._flows(entry, settings):
                images = entry.function(images, settings, self.context, generators)
            else:
                with torch.no_grad():
                    purified = entry.function(images.detach(), settings, self.context, generators)
                way = images
                if entry.stand_in and self.gradient == "exact":
                    way = entry.stand_in(images, settings, self.context, generators)
                images = way + (purified - way).detach()
        return images

    def _flows(self, entry: registry.Entry, settings: MethodConfig) -> bool:
        """Whether gradients flow through a purifier: by its own word, and through the models it passes."""
        slots = [slot for slot in entry.needs(settings) if slot in ("restorer", "upscaler")]
        return entry.method.differentiable and all(getattr(self.context.suite, slot).differentiable for slot in slots)


@dataclass(frozen=True)
class MixedLens:
    """One of several lenses at random, for each image and call; with a share of ``plain``, none."""

    lenses: tuple[Lens, ...]
    plain: float = 0.0

    def __call__(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        """Images ``(N, 3, H, W)`` in [0, 1] -> each image behind the lens that was drawn for it."""
        draws = rand(images[:, :1, :1, :1], generators).flatten().tolist()
        rows = []
        for row, draw in enumerate(draws):
            image = images[row : row + 1]
            if draw >= self.plain:
                place = int((draw - self.plain) / max(1 - self.plain, 1e-9) * len(self.lenses))
                image = self.lenses[min(place, len(self.lenses) - 1)](image, [generators[row]])
            rows.append(image)
        return torch.cat(rows)


def lens(chains: Sequence[tuple[Choice, ...]], context: Context, gradient: Gradient, plain: float) -> Lens | None:
    """The lens of some chains of purifiers; none where there is nothing to look through."""
    lenses = tuple(ChainLens(tuple(chain), context, gradient) for chain in chains if chain)
    if not lenses:
        return None
    return lenses[0] if len(lenses) == 1 and not plain else MixedLens(lenses, plain)


def gradient_share(context: Context, images: Tensor, generators: Sequence[Generator]) -> float:
    """The size of the training loss's gradient through ``context.lens`` over its size without: the median photo's.

    Images ``(N, 3, H, W)`` in [0, 1]. Sizes are root mean squares. The streams of ``generators`` are not advanced: each
    photo's draws come from a stream of their own, the same for both gradients.
    """
    assert context.lens is not None
    plain = denoising(context.suite.backbone, context.subject.class_prompt)
    behind = through(plain, context.lens, context.lens_draws)
    sizes = []
    for objective in (behind, plain):
        streams = [torch.Generator().manual_seed(derive(0, "lens", g.initial_seed())) for g in generators]
        rows = [value_and_gradient(objective, images[i : i + 1], [stream])[1] for i, stream in enumerate(streams)]
        sizes.append(torch.cat(rows).flatten(1).pow(2).mean(1).sqrt())
    return float((sizes[0] / sizes[1].clamp_min(1e-20)).median())
