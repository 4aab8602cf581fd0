"""Distances between sets of pictures that say something about small ones: the kernel distance, not FID.

FID estimates a covariance of 2048 x 2048 and is biased by thousandths of what it measures in thousands of pictures; of
sixteen it is noise. The kernel distance is unbiased from two pictures on.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from redcloak.errors import UserError


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """The cubic kernel of KID, ``(x.y / D + 1)^3``: ``(N, M)``."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def contributions(x: Tensor, y: Tensor) -> Tensor:
    """What each row of ``x`` adds: ``(N,)``, whose mean is the unbiased squared distance of ``x`` and ``y``.

    Features ``(N, D)`` and ``(M, D)``; nan where either set has fewer than two. A value may be below 0: that is what
    unbiased means. Rows drawn again give no interval of the distance: each also counts in the others' values, and ``y``
    is a sample too.

    Cite: Binkowski et al., "Demystifying MMD GANs", ICLR 2018, equation 4.
    """
    if min(len(x), len(y)) < 2:
        return torch.full((len(x),), torch.nan)
    own, other, cross = kernel(x, x), kernel(y, y), kernel(x, y)
    within = (own.sum(1) - own.diagonal()) / (len(x) - 1)
    theirs = (other.sum() - other.diagonal().sum()) / (len(y) * (len(y) - 1))
    return within + theirs - 2 * cross.mean(1)


def kid(x: Tensor, y: Tensor, generator: Generator, *, subset: int | None = None, subsets: int = 100) -> Tensor:
    """The kernel distance of ``subsets`` random subsets of ``subset`` rows of both, ``(subsets,)``: mean and spread.

    By default a subset is as large as the smaller set, at most 1000: the literature's 1000 does not fit small sets, and
    code that takes it anyway fails or draws with repetition. Random: which rows are drawn, without repetition.

    Raises:
        UserError: a subset is larger than a set, or of fewer than two.
    """
    most = min(len(x), len(y))
    size = min(most, 1000) if subset is None else subset
    if not 2 <= size <= most:
        raise UserError(f"subset = {size}: the sets have {len(x)} and {len(y)} pictures; choose 2 to {most}.")
    draws = []
    for _ in range(subsets):
        rows = [torch.randperm(len(each), generator=generator)[:size] for each in (x, y)]
        draws.append(contributions(x[rows[0]], y[rows[1]]).mean())
    return torch.stack(draws)
