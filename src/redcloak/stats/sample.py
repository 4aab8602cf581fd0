"""Scores of an arm as numpy columns, the units they come in, and estimates that say what they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from redcloak.api import Interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Level = Literal["subjects", "seeds", "pictures", "sets"]
Cell = tuple[Any, Any]


@dataclass(frozen=True)
class Estimate(Interval):
    """An interval that says what was drawn again: ``clusters`` counts the units of the level ``over``.

    An interval over seeds or pictures speaks of one subject; it says nothing about other subjects. With a
    single unit there is no interval: ``low`` and ``high`` are NaN.
    """

    over: Level = "subjects"

    @property
    def words(self) -> str:
        """The number with its interval and what it rests on: ``0.388 [0.242, 0.506] over 6 subjects``."""
        unit = self.over.removesuffix("s") if self.clusters == 1 else self.over
        if isnan(self.low):
            return f"{self.estimate:.3f} ({self.clusters} {unit}: no interval)"
        return f"{self} over {self.clusters} {unit}"

    def within(self, low: float, high: float) -> Estimate:
        """The part of the interval that the score can reach, with the same coverage."""
        return Estimate(self.estimate, max(self.low, low), min(self.high, high), self.clusters, self.level, self.over)


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

    @property
    def sets(self) -> Sample:
        """One value for each (subject, seed), the mean over its pictures: for scores that no single picture has."""
        cells = sorted({cell for cell in self.cells if cell is not None})
        subjects, seeds = (np.array([cell[column] for cell in cells]) for column in (0, 1))
        return Sample(cell_means(self, cells), subjects, seeds)

    def only(self, subject: Any) -> Sample:
        """The scores of one subject."""
        kept = self.subjects == subject
        return Sample(self.values[kept], self.subjects[kept], self.seeds[kept])


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


def shared(samples: Sequence[Sample]) -> list[Cell]:
    """The (subject, seed) pairs for which every sample has a defined value, sorted."""
    found = set.intersection(*(set(sample.cells) for sample in samples))
    return sorted(cell for cell in found if cell is not None)


def index_of(sample: Sample, cells: Sequence[Cell]) -> Ints:
    """For each value the position of its cell; -1 where it is undefined or not shared."""
    places: dict[Cell | None, int] = {cell: place for place, cell in enumerate(cells)}
    return np.array([places.get(cell, -1) for cell in sample.cells], dtype=np.int64)


def owners(cells: Sequence[Cell]) -> tuple[Ints, Ints]:
    """The number of the subject that each cell belongs to, and how many seeds each subject has."""
    _, owner, seeds = np.unique([str(cell[0]) for cell in cells], return_inverse=True, return_counts=True)
    return owner, seeds


def cell_means(sample: Sample, cells: Sequence[Cell]) -> Floats:
    """The mean of a sample's values in each cell."""
    index = index_of(sample, cells)
    kept = index >= 0
    sums = np.bincount(index[kept], weights=sample.values[kept], minlength=len(cells))
    return np.asarray(sums / np.bincount(index[kept], minlength=len(cells)))


def mean_over(sample: Sample, cells: Sequence[Cell]) -> float:
    """The mean over subjects of the means over their seeds of the means over pictures; NaN without a cell."""
    if not cells:
        return nan
    owner, seeds = owners(cells)
    return float((cell_means(sample, cells) / seeds[owner]).sum() / len(seeds))
