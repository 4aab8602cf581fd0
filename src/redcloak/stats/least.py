"""The smallest of several paired differences, with an interval that knows that it was picked.

The smallest of several means lies below the mean of the one that is truly smallest: of arms that hardly differ, the one
is picked that chance pushed down furthest. Its own interval is pushed down with it, and its upper end is too low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nan, sqrt

import numpy as np

from redcloak.stats.bootstrap import paired_difference
from redcloak.stats.sample import Cell, Estimate, Floats, Sample, cell_means, index_of, owners, shared

TAIL = 0.025


def least_difference(
    pairs: Sequence[tuple[Sample, Sample]], n: int = 2000, seed: int = 0
) -> tuple[Estimate, int | None]:
    """The smallest mean of ``a - b`` over ``pairs``, with a 95% interval of the smallest, and which pair it is of.

    The lower end is that of the pair alone: being picked can only have pushed it down. The upper end is stretched: in
    ``n`` joint resamples of the subjects the smallest difference is picked anew, and how far it falls below the one
    that was seen is what that one may have fallen below the truth (the reflected, or basic, interval; plain
    percentiles would be pushed down twice). Resamples are Student's, around the subjects' means as they vary together:
    with one pair they give the t interval, which a bootstrap of few subjects does not.

    Only the (subject, seed) pairs that all samples have are used: None, and NaN, where there is none. Of one subject,
    whose few runs tell nothing of how pairs vary together, the interval is that of the pair alone.

    Cite: Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 5.2 (basic intervals).
    """
    cells = shared([sample for pair in pairs for sample in pair]) if pairs else []
    if not cells:
        return Estimate(nan, nan, nan, clusters=0), None
    gaps = _by_subject(pairs, cells)
    at = int(gaps.mean(axis=0).argmin())
    a, b = (_only(sample, cells) for sample in pairs[at])
    own = paired_difference(a, b, n, seed)
    if len(pairs) == 1 or len(gaps) == 1:
        return own, at
    fallen = float(np.quantile(_resampled(gaps, n, seed).min(axis=1), TAIL))
    return replace(own, high=max(own.high, 2 * own.estimate - fallen)), at


def _by_subject(pairs: Sequence[tuple[Sample, Sample]], cells: Sequence[Cell]) -> Floats:
    """The mean difference of each subject in each pair: ``(subjects, pairs)``."""
    gaps = np.column_stack([cell_means(a, cells) - cell_means(b, cells) for a, b in pairs])
    owner, seeds = owners(cells)
    sums = np.zeros((len(seeds), len(pairs)))
    np.add.at(sums, owner, gaps)
    return np.asarray(sums / seeds[:, None])


def _only(sample: Sample, cells: Sequence[Cell]) -> Sample:
    kept = index_of(sample, cells) >= 0
    return Sample(sample.values[kept], sample.subjects[kept], sample.seeds[kept])


def _resampled(gaps: Floats, n: int, seed: int) -> Floats:
    """Means of the columns ``(n, pairs)`` in Student's resamples: the rows weigh normally, the scale is chi's."""
    count, rng = len(gaps), np.random.default_rng(seed)
    means = gaps.mean(axis=0)
    weights = rng.normal(size=(n, count)) / sqrt(count * (count - 1))
    scale = np.sqrt(rng.chisquare(count - 1, size=(n, 1)) / (count - 1))
    return np.asarray(means + weights @ (gaps - means) / scale)
