"""Projected gradient ascent inside a budget, ending on the 8-bit lattice of the PNG that will be saved.

    x_{k+1} = P( x_k + a_k * rule(grad L(x_k)) ),    P: the ball around x_0, cut with [0, 1]

Cite: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

from redcloak.api import Budget, Progress, silent
from redcloak.objectives import Objective, value_and_gradient
from redcloak.rng import rand

Rule = Literal["sign", "normalised"]
Schedule = Callable[[int, int], float]


def constant(step: int, steps: int) -> float:
    """The full step size throughout."""
    return 1.0


def decaying(step: int, steps: int) -> float:
    """From the full step size down to a hundredth, linearly (PhotoGuard)."""
    return 1.0 - 0.99 * step / steps


def project(images: Tensor, clean: Tensor, budget: Budget) -> Tensor:
    """The nearest images inside the budget around ``clean`` and inside [0, 1]."""
    return torch.min(torch.max(images, clean - budget.radius), clean + budget.radius).clamp(0, 1)


def quantise(images: Tensor, clean: Tensor, budget: Budget) -> Tensor:
    """The nearest 8-bit images whose saved PNG is inside the budget around the saved clean PNG.

    Rounding alone can step out of the ball by one level; here the ball itself is taken on the lattice.
    """
    levels, origin = (images * 255).round(), (clean * 255).round()
    reach = int(budget.radius * 255 + 1e-6)  # whole levels that fit in the radius
    return torch.min(torch.max(levels, origin - reach), origin + reach).clamp(0, 255) / 255


def random_start(clean: Tensor, budget: Budget, generators: Sequence[Generator]) -> Tensor:
    """Uniform in the L_inf ball, from each image's own generator."""
    return project(clean + budget.radius * (2 * rand(clean, generators) - 1), clean, budget)


def direction(gradient: Tensor, rule: Rule) -> Tensor:
    """The step's direction: the sign of the gradient, or the gradient scaled to a largest entry of 1 per image."""
    if rule == "sign":
        return gradient.sign()
    largest = gradient.flatten(1).abs().amax(1).clamp_min(1e-12)
    return gradient / largest.view(-1, 1, 1, 1)


def ascend(
    start: Tensor,
    clean: Tensor,
    objective: Objective,
    generators: Sequence[Generator],
    *,
    budget: Budget,
    step_size: float,
    steps: int,
    rule: Rule = "sign",
    schedule: Schedule = constant,
    progress: Progress = silent,
) -> Tensor:
    """Run ``steps`` of projected gradient ascent from ``start``; the result is *not* yet on the lattice.

    ``step_size`` is in [0, 1] pixel units. ``progress`` is told the mean loss of each step. Randomness is the
    objective's, from the image's own generator, so that an image's path does not depend on its companions.
    """
    images = start
    for step in range(steps):
        losses, gradient = value_and_gradient(objective, images, generators)
        moved = images + step_size * schedule(step, steps) * direction(gradient, rule)
        images = project(moved, clean, budget)
        progress(step + 1, steps, {"loss": float(losses.mean())})
    return images.detach()
