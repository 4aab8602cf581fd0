"""The budget as a set: projection onto it, random points of it, and its 8-bit points, which are what is saved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from redcloak.api import Budget
from redcloak.rng import rand, randn


def project(images: Tensor, clean: Tensor, budget: Budget) -> Tensor:
    """The nearest images inside the budget around ``clean``, then inside [0, 1] (which leads no further out)."""
    if budget.norm == "linf":
        return torch.min(torch.max(images, clean - budget.radius), clean + budget.radius).clamp(0, 1)
    offset = images - clean
    size = offset.flatten(1).pow(2).mean(1).sqrt().clamp_min(1e-12)
    return (clean + offset * (budget.radius / size).clamp_max(1).view(-1, 1, 1, 1)).clamp(0, 1)


def random_start(clean: Tensor, budget: Budget, generators: Sequence[Generator]) -> Tensor:
    """A random point of the ball, from each image's own generator.

    L_inf: uniform. L2: in a uniform direction, at a uniform share of the radius.
    """
    if budget.norm == "linf":
        return project(clean + budget.radius * (2 * rand(clean, generators) - 1), clean, budget)
    offset = randn(clean, generators)
    offset = offset / offset.flatten(1).pow(2).mean(1).sqrt().view(-1, 1, 1, 1)
    share = rand(clean[:, :1, :1, :1], generators)
    return project(clean + budget.radius * share * offset, clean, budget)


def quantise(images: Tensor, clean: Tensor, budget: Budget) -> Tensor:
    """The 8-bit images near ``images`` whose saved PNG is inside the budget around the saved clean PNG.

    Rounding alone can step out of the ball by one level. L_inf: the nearest images of the lattice inside. L2: the
    nearest images of the lattice, then the values that were rounded up the most go back by one level until it is.
    """
    levels, origin = (images * 255).round(), (clean * 255).round()
    if budget.norm == "linf":
        reach = int(budget.radius * 255 + 1e-6)  # whole levels that fit in the radius
        return torch.min(torch.max(levels, origin - reach), origin + reach).clamp(0, 255) / 255
    exact = (images * 255 - origin).flatten(1)
    offsets = (levels.clamp(0, 255) - origin).flatten(1)
    limit = (budget.radius * 255) ** 2 * offsets.shape[1]
    rows = [_shrunk(row, wanted, limit) for row, wanted in zip(offsets, exact, strict=True)]
    return (origin + torch.stack(rows).view_as(origin)) / 255


def _shrunk(offset: Tensor, exact: Tensor, limit: float) -> Tensor:
    """Move values of ``offset`` one level towards zero, the most rounded-up first, until its energy is in ``limit``."""
    while (excess := float(offset.double().pow(2).sum()) - limit * (1 + 1e-9)) > 0:
        saved = (2 * offset.abs() - 1).clamp_min(0)  # |d|^2 - (|d| - 1)^2
        order = (offset.abs() - exact.abs()).masked_fill(offset == 0, -torch.inf).argsort(descending=True, stable=True)
        enough = int((saved[order].double().cumsum(0) < excess).sum()) + 1
        chosen = order[:enough]
        offset = offset.clone()
        offset[chosen] -= offset[chosen].sign()
    return offset
