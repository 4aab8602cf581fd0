"""Intervals and tests that respect how the scores came about: pictures within seeds within subjects.

Pictures of one training run resemble each other, and so do runs on one subject; counting each picture as an
independent observation makes intervals far too short. Everything here therefore draws whole subjects again,
then seeds within each drawn subject. Where there is only one subject it starts one level lower (seeds, then
pictures) and says so in :attr:`Estimate.over`.

A bootstrap cannot see further than its units: in simulation a 95% interval covers the truth 95 times in 100 with
five subjects, about 88 times with three, and with one subject and two seeds 96 times if runs differ little
beside pictures, but 80 times if they differ as much.

Means are means of means: every subject counts the same, every seed of a subject counts the same.

Cite: Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8 (nested resampling);
Hesterberg, "What Teachers Should Know about the Bootstrap", arXiv 1411.5279, section 5.3 (the expanded
percentile interval, which keeps its level with few clusters).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import nan, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from redcloak.api import Interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Level = Literal["subjects", "seeds", "pictures"]
Statistic = Callable[[Floats, Floats], Floats]
Cell = tuple[Any, Any]

DEEPEST_TAIL = 0.001  # beyond it a percentile of 2000 replicates is one arbitrary draw
EXACT_UP_TO = 14  # subjects: 2**14 sign patterns are enumerated, more are sampled


@dataclass(frozen=True)
class Estimate(Interval):
    """An interval that says what was drawn again: ``clusters`` counts the units of the level ``over``.

    An interval over seeds or pictures speaks of one subject; it says nothing about other subjects. With a
    single unit there is no interval: ``low`` and ``high`` are NaN.
    """

    over: Level = "subjects"


@dataclass(frozen=True)
class Recovery:
    """The share of a protection's effect that a treatment won back: 0 nothing, 1 all of it.

    ``loss`` is what the protection took (clean minus protected). Where its interval contains 0 there is
    nothing that could be won back, and ``share`` is None: undecided.
    """

    loss: Estimate
    share: Estimate | None

    def __str__(self) -> str:
        """The share in percent with its interval, or ``undecided``."""
        if self.share is None:
            return "undecided"
        return f"{self.share.estimate:.0%} [{self.share.low:.0%}, {self.share.high:.0%}]"


@dataclass(frozen=True)
class Sample:
    """Scores of one arm: ``(N,)`` values, with the subject and the seed of each. NaN is left out."""

    values: Floats
    subjects: NDArray[Any]
    seeds: NDArray[Any]

    @property
    def cells(self) -> list[Cell | None]:
        """The (subject, seed) of each value; None where the value is undefined."""
        pairs = zip(self.subjects.tolist(), self.seeds.tolist(), np.isfinite(self.values), strict=True)
        return [(subject, seed) if defined else None for subject, seed, defined in pairs]


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
    """A statistic with its 95% interval: whole clusters are drawn again, then subclusters within each.

    Args:
        values: ``(N,)``; NaN is left out, and a cluster of NaN alone with it.
        clusters: ``(N,)`` labels of the independent units, the subjects.
        statistic: of ``(N,)`` values and ``(n, N)`` weights, one result per row; rows of weights sum to 1.
        subclusters: ``(N,)`` labels within a cluster, the seeds; without them nothing below is drawn again.
        n: number of replicates.
        seed: the same seed gives the same interval, to the last bit.
    """
    below = np.zeros(len(values), dtype=np.int64) if subclusters is None else subclusters
    sample = Sample(np.asarray(values, dtype=np.float64), np.asarray(clusters), np.asarray(below))
    return _bootstrap([sample], lambda drawn: statistic(*drawn[0]), n, seed)


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


def for_every_seed(sample: Sample, like: Sample) -> Sample:
    """Pair an arm without training seeds, the untuned model, with ``like``: it counts for each seed there.

    A sample that already has every (subject, seed) of ``like`` is returned as it is.
    """
    wanted = sorted(cell for cell in set(like.cells) if cell is not None)
    if set(wanted) <= set(sample.cells):
        return sample
    rows = [np.flatnonzero(sample.subjects == subject) for subject, _ in wanted]
    index = np.concatenate([np.zeros(0, dtype=np.int64), *rows])
    seeds = np.repeat([seed for _, seed in wanted], [len(row) for row in rows])
    return Sample(sample.values[index], sample.subjects[index], seeds)


def sign_flip(a: Sample, b: Sample, n: int = 20_000, seed: int = 0) -> float:
    """The two-sided p of "a and b differ on average", by flipping the signs of the subjects' differences.

    Exact for up to 14 subjects, else sampled (``n`` patterns beside the observed one). The smallest p that S
    subjects can give is ``2 ** (1 - S)``; with one subject the test cannot say anything: NaN.
    """
    cells = _shared([a, b])
    subjects = np.array([cell[0] for cell in cells])
    gaps = _cell_means(a, cells) - _cell_means(b, cells)
    differences = np.array([gaps[subjects == subject].mean() for subject in np.unique(subjects)])
    count = len(differences)
    if count < 2:
        return nan
    if count <= EXACT_UP_TO:
        signs = np.array(list(product((1.0, -1.0), repeat=count)))
    else:
        drawn = np.random.default_rng(seed).choice((1.0, -1.0), size=(n, count))
        signs = np.vstack([np.ones(count), drawn])
    sums = np.abs(signs @ differences)
    return float(np.mean(sums >= sums[0] * (1 - 1e-9)))


def _bootstrap(
    samples: Sequence[Sample],
    statistic: Callable[[Sequence[tuple[Floats, Floats]]], Floats],
    n: int,
    seed: int,
) -> Estimate:
    """Evaluate ``statistic`` on the samples as observed and on ``n`` joint redraws of them."""
    cells = _shared(samples)
    if not cells:
        return Estimate(nan, nan, nan, clusters=0)
    rng = np.random.default_rng(seed)
    draws, over, units = _draw_cells(cells, n, rng)
    observed, redrawn = [], []
    for sample in samples:
        index = _index(sample, cells)
        values, index = sample.values[index >= 0], index[index >= 0]
        sizes = np.bincount(index, minlength=len(cells))
        shares = _per_cell(cells) / sizes
        observed.append((values, shares[index][None]))
        # The level drawn first and the one below it are redrawn; with several subjects that stops at seeds.
        counts = draws[:, index] * 1.0 if over == "subjects" else _draw_pictures(draws, index, sizes, rng)
        redrawn.append((values, counts * shares[index]))
    units = units if over != "pictures" else min(len(values) for values, _ in observed)
    return _interval(float(statistic(observed)[0]), statistic(redrawn), units, over)


def _shared(samples: Sequence[Sample]) -> list[Cell]:
    """The (subject, seed) pairs for which every sample has a defined value, sorted."""
    found = set.intersection(*(set(sample.cells) for sample in samples))
    return sorted(cell for cell in found if cell is not None)


def _index(sample: Sample, cells: Sequence[Cell]) -> Ints:
    """For each value the position of its cell; -1 where it is undefined or not shared."""
    places: dict[Cell | None, int] = {cell: place for place, cell in enumerate(cells)}
    return np.array([places.get(cell, -1) for cell in sample.cells], dtype=np.int64)


def _cell_means(sample: Sample, cells: Sequence[Cell]) -> Floats:
    index = _index(sample, cells)
    kept = index >= 0
    sums = np.bincount(index[kept], weights=sample.values[kept], minlength=len(cells))
    return np.asarray(sums / np.bincount(index[kept], minlength=len(cells)))


def _owners(cells: Sequence[Cell]) -> tuple[Ints, Ints]:
    """The number of the subject that each cell belongs to, and how many seeds each subject has."""
    _, owner, seeds = np.unique([str(cell[0]) for cell in cells], return_inverse=True, return_counts=True)
    return owner, seeds


def _per_cell(cells: Sequence[Cell]) -> Floats:
    """The weight of each cell in a mean over subjects of means over seeds."""
    owner, seeds = _owners(cells)
    return np.asarray(1 / (len(seeds) * seeds[owner]))


def _draw_cells(cells: Sequence[Cell], n: int, rng: np.random.Generator) -> tuple[Ints, Level, int]:
    """How often each cell is drawn in each replicate ``(n, cells)``, the level drawn first, and its units."""
    owner, seeds = _owners(cells)
    count = len(seeds)
    if count == 1:
        draws = _split(np.ones(n, dtype=np.int64), len(cells), rng)
        return draws, ("seeds" if len(cells) > 1 else "pictures"), len(cells)
    subjects = _split(np.ones(n, dtype=np.int64), count, rng)
    draws = np.empty((n, len(cells)), dtype=np.int64)
    for subject in range(count):
        draws[:, owner == subject] = _split(subjects[:, subject], int(seeds[subject]), rng)
    return draws, "subjects", count


def _draw_pictures(draws: Ints, index: Ints, sizes: Ints, rng: np.random.Generator) -> Floats:
    """How often each picture is drawn ``(n, pictures)``, given how often its cell is."""
    counts = np.empty((len(draws), len(index)))
    for cell, size in enumerate(sizes):
        counts[:, index == cell] = _split(draws[:, cell], int(size), rng)
    return counts


def _split(draws: Ints, parts: int, rng: np.random.Generator) -> Ints:
    """Redraw ``parts`` children within a parent that was drawn ``draws`` times: ``(n, parts)`` counts."""
    return np.asarray(rng.multinomial(draws * parts, np.full(parts, 1 / parts)))


def _interval(estimate: float, replicates: Floats, units: int, over: Level) -> Estimate:
    """The expanded percentile interval: percentiles moved outwards as a t interval of few units would be."""
    if units < 2:
        return Estimate(estimate, nan, nan, clusters=units, over=over)
    reach = sqrt(units / (units - 1)) * float(stdtrit(units - 1, 0.975))
    tail = max(float(ndtr(-reach)), DEEPEST_TAIL)
    # A ratio may be 0/0 in a single replicate, which must not undo all the others.
    low, high = np.nanquantile(replicates, [tail, 1 - tail])
    return Estimate(estimate, float(low), float(high), clusters=units, over=over)
