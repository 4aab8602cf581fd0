"""Two runs side by side: what changed in their matrices, and their arms, paired by subject and seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from redcloak.bench.board import read_board
from redcloak.bench.results import Cell, Results
from redcloak.errors import UserError
from redcloak.report.model import PRIMARY
from redcloak.stats import Estimate, Sample, holm, paired_difference, signed_rank, subject_differences, subjects_needed

ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """One arm that both runs have: ``B`` minus ``A`` in a score; ``p`` is corrected for the arms that are compared."""

    cell: Cell
    a: float
    b: float
    change: Estimate
    p: float

    @property
    def certain(self) -> bool:
        """Whether the arms differ, all arms being asked; never where there are too few subjects to tell."""
        return self.p < ALPHA


@dataclass(frozen=True)
class Comparison:
    """What changed, and the arms: in both, the largest change first; and those that only one of the runs has."""

    settings: tuple[tuple[str, Any, Any], ...]
    arms: tuple[Difference, ...]
    only_a: tuple[Cell, ...]
    only_b: tuple[Cell, ...]

    @property
    def too_few(self) -> str:
        """Why no arm can be certain, however much it changed; empty where one can."""
        needed = subjects_needed(len(self.arms))
        if (
            any(each.change.over == "subjects" and each.change.clusters >= needed for each in self.arms)
            or not self.arms
        ):
            return ""
        return f"{len(self.arms)} arms are compared: with fewer than {needed} subjects none can be certain."


def compare(a: Path, b: Path, metric: str = PRIMARY) -> Comparison:
    """Compare two finished runs by their folders.

    Each arm's p is that of the signed-rank test over subjects, corrected by Holm's method over all arms of both runs.

    Raises:
        UserError: one of them is not finished, or they do not both have the metric.
    """
    boards = [read_board(folder) for folder in (a, b)]
    first, second = (Results.read(folder / "results.parquet") for folder in (a, b))
    both = [name for name in first.metrics if name in second.metrics]
    if metric not in both:
        raise UserError(f"--metric {metric!r}: no score of both runs; there are {', '.join(both) or 'none'}.")
    mine, theirs = set(first.cells), set(second.cells)
    arms = _differences([cell for cell in first.cells if cell in theirs], first, second, metric)
    arms.sort(key=lambda each: -abs(each.change.estimate) if not isnan(each.change.estimate) else 0.0)
    return Comparison(
        tuple(changes(boards[0].config, boards[1].config)),
        tuple(arms),
        tuple(cell for cell in first.cells if cell not in theirs),
        tuple(cell for cell in second.cells if cell not in mine),
    )


def _differences(cells: Sequence[Cell], a: Results, b: Results, metric: str) -> list[Difference]:
    pairs = [(a.sample(cell, metric), b.sample(cell, metric)) for cell in cells]
    ps = holm([signed_rank(np.array(list(subject_differences(there, here).values()))) for here, there in pairs])
    return [
        Difference(cell, _mean(here), _mean(there), paired_difference(there, here), p)
        for cell, (here, there), p in zip(cells, pairs, ps, strict=True)
    ]


def _mean(sample: Sample) -> float:
    kept = sample.values[np.isfinite(sample.values)]
    return float(kept.mean()) if len(kept) else nan


def changes(a: Any, b: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every field in which two configurations differ: (its path, here, there); None where one has no such field."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in dict.fromkeys([*a, *b]):
            yield from changes(a.get(name), b.get(name), f"{where}.{name}" if where else str(name))
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        yield from _list_changes(a, b, where)
    elif a != b or type(a) is not type(b):
        yield where, a, b


def _list_changes(a: Any, b: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Values with labels are matched by them, others by their place."""
    if all(isinstance(each, Mapping) and "label" in each for each in (*a, *b)):
        mine, theirs = ({each["label"]: each for each in values} for values in (a, b))
        for label in dict.fromkeys([*mine, *theirs]):
            if label in mine and label in theirs:
                yield from changes(mine[label], theirs[label], f"{where}[{label}]")
            else:
                yield f"{where}[{label}]", *(("there", None) if label in mine else (None, "there"))
        return
    if len(a) != len(b):
        yield where, list(a), list(b)
        return
    for index, pair in enumerate(zip(a, b, strict=True)):
        yield from changes(*pair, f"{where}[{index}]")
