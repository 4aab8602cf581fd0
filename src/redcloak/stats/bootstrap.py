"""The bootstrap that draws whole subjects again: means, paired differences and shares with 95% intervals.

Pictures of one training run resemble each other, and so do runs on one subject; counting each picture as an
independent observation makes intervals far too short. Everything here therefore draws whole subjects again, each
with its seeds and pictures. What seeds and pictures add to the spread is in the subjects' means already: drawing
seeds again within a drawn subject would count it twice. With fewer than 8 subjects the percentiles of a bootstrap
lie within the few means that there are, and Student's t takes their place, on the spread that the influence of
each subject gives. Where there is only one subject it starts one level lower (seeds, then pictures) and says so in
:attr:`Estimate.over`.

``benchmarks/coverage.py`` counts how often the intervals cover the truth; its table is in docs/statistics.md.

Means are means of means: every subject counts the same, every seed of a subject counts the same.

Cite: Davison & Hinkley, "Bootstrap Methods and their Application", 1997, sections 2.7.2 (empirical influence) and
3.8 (nested data: the highest level alone is drawn again); Hesterberg, "What Teachers Should Know about the
Bootstrap", arXiv 1411.5279, section 5.3 (the expanded percentile interval).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from redcloak.stats.sample import Cell, Estimate, Floats, Ints, Level, Recovery, Sample, index_of, owners, shared

Statistic = Callable[[Floats, Floats], Floats]
Joint = Callable[[Sequence[tuple[Floats, Floats]]], Floats]

DEEPEST_TAIL = 0.001  # beyond it a percentile of 2000 replicates is one arbitrary draw
FEW = 8  # subjects: with fewer, percentiles cover too rarely (85 times in 100 with four)
NUDGE = 1e-4  # of weight, towards one subject and away from it


def mean(values: Floats, weights: Floats) -> Floats:
    """The weighted means of ``(N,)`` values under ``(n, N)`` weights, each row of which sums to 1."""
    return weights @ values


def cluster_bootstrap(
    values: Floats,
    clusters: NDArray[Any],
    statistic: Statistic = mean,
    subclusters: NDArray[Any] | None = None,
    n: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A statistic with its 95% interval: whole clusters are drawn again.

    Args:
        values: ``(N,)``; NaN is left out, and a cluster of NaN alone with it.
        clusters: ``(N,)`` labels of the independent units, the subjects.
        statistic: of ``(N,)`` values and ``(n, N)`` weights, one result per row; rows of weights sum to 1.
        subclusters: ``(N,)`` labels within a cluster, the seeds: each counts the same within its cluster.
        n: number of replicates.
        seed: the same seed gives the same interval, to the last bit.
    """
    below = np.zeros(len(values), dtype=np.int64) if subclusters is None else subclusters
    sample = Sample(np.asarray(values, dtype=np.float64), np.asarray(clusters), np.asarray(below))
    return _bootstrap([sample], lambda drawn: statistic(*drawn[0]), n, seed)


def dyadic_bootstrap(
    values: Floats, first: NDArray[Any], second: NDArray[Any], n: int = 2000, seed: int = 0
) -> Estimate:
    """The mean over pairs of two units each, with its 95% interval: units are drawn again, a pair as often as both.

    All pairs of a unit share it, so that pairs are not independent whichever of their two units they are filed under.
    Every couple of units counts the same.

    Args:
        values: ``(N,)``; NaN is left out.
        first: ``(N,)`` labels of one unit of each pair.
        second: ``(N,)`` labels of the other.
        n: number of replicates.
        seed: the same seed gives the same interval, to the last bit.

    Raises:
        ValueError: a pair of a unit with itself.

    Cite: Davezies, D'Haultfoeuille & Guyonvarch, "Empirical process results for exchangeable arrays", Annals of
    Statistics 2021.
    """
    if bool(np.any(first == second)):
        raise ValueError("first, second: a pair holds one unit twice; give pairs of two different units.")
    defined = np.isfinite(values)
    labels, ends = np.unique(np.concatenate([first[defined], second[defined]]), return_inverse=True)
    count, (a, b) = len(labels), ends.reshape(2, -1)
    if count < 3:
        return Estimate(float(np.mean(values[defined])) if count else nan, nan, nan, clusters=count)
    sums, sizes = np.zeros((2, count, count))
    np.add.at(sums, (a, b), values[defined])
    np.add.at(sizes, (a, b), 1)
    couples = (sizes + sizes.T > 0).astype(np.float64)
    means = (sums + sums.T) / np.maximum(sizes + sizes.T, 1)

    def drawn(counts: Floats | Ints) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray(((counts @ means) * counts).sum(1) / ((counts @ couples) * counts).sum(1))

    draws = _split(np.ones(n, dtype=np.int64), count, np.random.default_rng(seed))
    return _percentile(float(drawn(np.ones((1, count)))[0]), drawn(draws), count, "subjects")


def paired_difference(a: Sample, b: Sample, n: int = 2000, seed: int = 0) -> Estimate:
    """The mean of ``a - b`` over the (subject, seed) pairs that both arms have, with its 95% interval.

    The same subjects and seeds are drawn for both arms, so that what they share cancels.
    """
    return _bootstrap([a, b], lambda drawn: mean(*drawn[0]) - mean(*drawn[1]), n, seed)


def expected(adaptive: Sample, plain: Sample, chance: float = 0.5, n: int = 2000, seed: int = 0) -> Estimate:
    """The expected score where the protector adapts with probability ``chance``, with its 95% interval:

        E[score] = chance * adaptive + (1 - chance) * plain

    Over the (subject, seed) pairs that both arms have, drawn together.

    Cite: Liu et al., arXiv 2406.18944, section 5.3 (with a chance of 0.5).
    """  # noqa: D415 - the formula belongs to the first sentence
    if not 0 <= chance <= 1:
        raise ValueError(f"chance {chance} is no probability; give one in [0, 1].")

    def mixed(drawn: Sequence[tuple[Floats, Floats]]) -> Floats:
        return np.asarray(chance * mean(*drawn[0]) + (1 - chance) * mean(*drawn[1]))

    return _bootstrap([adaptive, plain], mixed, n, seed)


def recovered(protected: Sample, treated: Sample, clean: Sample, n: int = 2000, seed: int = 0) -> Recovery:
    """``(treated - protected) / (clean - protected)``, a ratio of means, by a joint bootstrap of three arms.

    Only the (subject, seed) pairs that all three arms have are used.
    """

    def share(drawn: Sequence[tuple[Floats, Floats]]) -> Floats:
        low, middle, high = (mean(*each) for each in drawn)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((middle - low) / (high - low))

    arms = [protected, treated, clean]
    loss = _bootstrap(arms, lambda drawn: mean(*drawn[2]) - mean(*drawn[0]), n, seed)
    one_sided = loss.low > 0 or loss.high < 0
    return Recovery(loss, _bootstrap(arms, share, n, seed) if one_sided else None)


@dataclass(frozen=True)
class _Part:
    """The values of one sample that count, the cell of each, and its weight in a mean of means of means."""

    values: Floats
    index: Ints
    sizes: Ints
    shares: Floats

    @classmethod
    def of(cls, sample: Sample, cells: Sequence[Cell]) -> _Part:
        index = index_of(sample, cells)
        values, index = sample.values[index >= 0], index[index >= 0]
        sizes = np.bincount(index, minlength=len(cells))
        owner, seeds = owners(cells)
        return cls(values, index, sizes, (1 / (len(seeds) * seeds[owner]) / sizes)[index])

    def weighted(self, counts: Floats | Ints) -> tuple[Floats, Floats]:
        """The values and their weights ``(n, N)`` where each was drawn ``counts`` times."""
        return self.values, counts * self.shares


def _bootstrap(samples: Sequence[Sample], statistic: Joint, n: int, seed: int) -> Estimate:
    """Evaluate ``statistic`` on the samples as observed and on joint redraws of them."""
    cells = shared(samples)
    if not cells:
        return Estimate(nan, nan, nan, clusters=0)
    parts = [_Part.of(sample, cells) for sample in samples]
    estimate = float(statistic([part.weighted(np.ones((1, len(part.values)))) for part in parts])[0])
    owner, seeds = owners(cells)
    rng = np.random.default_rng(seed)
    if len(seeds) == 1:
        return _one_subject(parts, statistic, estimate, n, rng)

    def redrawn(draws: Floats | Ints) -> Floats:
        return statistic([part.weighted(draws[:, owner[part.index]]) for part in parts])

    count = len(seeds)
    if count < FEW:
        return _student(estimate, redrawn, count)
    return _percentile(estimate, redrawn(_split(np.ones(n, dtype=np.int64), count, rng)), count, "subjects")


def _one_subject(
    parts: Sequence[_Part], statistic: Joint, estimate: float, n: int, rng: np.random.Generator
) -> Estimate:
    """Draw the seeds again, the same for all samples, and pictures within each."""
    seeds = len(parts[0].sizes)
    draws = _split(np.ones(n, dtype=np.int64), seeds, rng)
    replicates = statistic([part.weighted(_draw_pictures(draws, part, rng)) for part in parts])
    over: Level = "seeds" if seeds > 1 else "pictures"
    units = seeds if seeds > 1 else min(len(part.values) for part in parts)
    return _percentile(estimate, replicates, units, over)


def _draw_pictures(draws: Ints, part: _Part, rng: np.random.Generator) -> Floats:
    """How often each picture is drawn ``(n, pictures)``, given how often its cell is."""
    counts = np.empty((len(draws), len(part.index)))
    for cell, size in enumerate(part.sizes):
        counts[:, part.index == cell] = _split(draws[:, cell], int(size), rng)
    return counts


def _split(draws: Ints, parts: int, rng: np.random.Generator) -> Ints:
    """Redraw ``parts`` children within a parent that was drawn ``draws`` times: ``(n, parts)`` counts."""
    return np.asarray(rng.multinomial(draws * parts, np.full(parts, 1 / parts)))


def _student(estimate: float, redrawn: Callable[[Floats], Floats], count: int) -> Estimate:
    """Student's t interval; for a mean it is the textbook's, for a ratio that of the delta method.

    The influence of a subject is the derivative of the statistic when weight moves towards that subject.
    """
    towards = NUDGE * (count * np.eye(count) - 1)
    influence = (redrawn(1 + towards) - redrawn(1 - towards)) / (2 * NUDGE)
    error = sqrt(float(np.square(influence).sum()) / (count * (count - 1)))
    reach = float(stdtrit(count - 1, 0.975)) * error
    return Estimate(estimate, estimate - reach, estimate + reach, clusters=count)


def _percentile(estimate: float, replicates: Floats, units: int, over: Level) -> Estimate:
    """The expanded percentile interval: percentiles moved outwards as a t interval of few units would be."""
    if units < 2:
        return Estimate(estimate, nan, nan, clusters=units, over=over)
    reach = sqrt(units / (units - 1)) * float(stdtrit(units - 1, 0.975))
    tail = max(float(ndtr(-reach)), DEEPEST_TAIL)
    # A ratio may be 0/0 in a single replicate, which must not undo all the others.
    low, high = np.nanquantile(replicates, [tail, 1 - tail])
    return Estimate(estimate, float(low), float(high), clusters=units, over=over)
