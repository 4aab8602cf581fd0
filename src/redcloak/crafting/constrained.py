"""Ascent inside a budget under one more constraint: what the causal interventions are made with.

    maximise  f(x)   subject to   g(x) <= 0   and x in the budget, on the 8-bit lattice

by the method of multipliers: sign steps on ``f - w g - (r / 2) max(g, 0)^2``, the multiplier ``w >= 0`` of each photo
following ``w <- max(0, w + r g)``. Both functions are asked at the 8-bit point that would be saved, so that what holds
here holds on disk; the gradient is passed straight through the rounding.

Cite: Nocedal & Wright, "Numerical Optimization", 2006, section 17.3 (augmented Lagrangian); the straight-through
gradient of Bengio et al., arXiv 1308.3432.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Budget, Context
from redcloak.config import AscentConfig
from redcloak.crafting.ascent import ascend
from redcloak.crafting.balls import quantise
from redcloak.crafting.objectives import EVERY, Objective, Rows
from redcloak.crafting.rules import Plan, decaying
from redcloak.errors import UserError


class ConstrainedConfig(AscentConfig):
    """Base of the interventions: an ascent, and how fast its multipliers follow."""

    steps: int = Field(120, ge=1, description="ascent steps")
    rate: float = Field(0.1, gt=0, description="how much a violation of one tolerance adds to its weight in a step")


def constrained(
    start: Tensor,
    clean: Tensor,
    aim: Objective,
    excess: Objective,
    generators: Sequence[Generator],
    config: ConstrainedConfig,
    context: Context,
) -> Tensor:
    """The last 8-bit point on the way up ``aim`` where ``excess <= 0``; where there was none, that of least excess.

    Images ``(N, 3, H, W)`` in [0, 1]; ``excess`` in units of its tolerance, -1 where nothing moved. Steps shrink to a
    hundredth. No state is kept: a killed run begins anew. Random: what ``aim`` draws.

    Raises:
        UserError: the photos are to be looked at through a lens.
    """
    if context.lens:
        raise UserError("adaptive: an intervention constrains the photo itself; choose a protection, such as aspl.")
    climb = _Lagrangian(clean, aim, excess, config.ball, config.rate)
    plan = Plan(config.ball, config.step_size / 255, config.steps, config.rule, decaying)
    inside = Context(context.suite, progress=context.progress)
    last = ascend(start, clean, climb, generators, plan, inside)
    with torch.no_grad():
        for row, stream in enumerate(generators):
            climb(last[row : row + 1], [stream], slice(row, row + 1))
    return climb.best


def within(distance: Objective, tolerance: float) -> Objective:
    """The excess of a distance over its tolerance, in units of the tolerance."""

    def excess(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        return distance(images, generators, rows) / tolerance - 1

    return excess


class _Lagrangian:
    """The augmented Lagrangian of each photo, its multiplier, and the point that would be kept."""

    def __init__(self, clean: Tensor, aim: Objective, excess: Objective, budget: Budget, rate: float) -> None:
        self.clean, self.aim, self.excess, self.budget, self.rate = clean, aim, excess, budget, rate
        self.weight = torch.zeros(len(clean))
        self.least = torch.full((len(clean),), torch.inf)
        self.best = clean.clone()

    def __call__(self, images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        saved = quantise(images.detach(), self.clean[rows], self.budget)
        lattice = images + (saved - images).detach()
        aim, excess = self.aim(lattice, generators, rows), self.excess(lattice, generators, rows)
        weight = self.weight[rows].to(excess)
        self._note(saved, excess.detach().cpu(), rows)
        value: Tensor = aim - weight * excess - self.rate / 2 * excess.clamp_min(0).pow(2)
        return value

    def _note(self, saved: Tensor, excess: Tensor, rows: Rows) -> None:
        numbers = range(len(self.clean))[rows] if isinstance(rows, slice) else rows
        for place, row in enumerate(numbers):
            if place and row == numbers[0]:
                break  # the rest only fills the batch up
            self.weight[row] = (self.weight[row] + self.rate * excess[place]).clamp_min(0)
            if excess[place] <= max(0.0, float(self.least[row])):
                self.least[row], self.best[row] = excess[place], saved[place]
