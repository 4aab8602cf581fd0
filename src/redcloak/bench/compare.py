"""Two runs side by side: what changed in their matrices, and their arms, paired by subject and seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from redcloak.bench.board import read_board
from redcloak.bench.results import Cell, Results
from redcloak.report.model import PRIMARY
from redcloak.stats import Estimate, paired_difference


@dataclass(frozen=True)
class Difference:
    """One arm that both runs have: ``B`` minus ``A`` in ``metric``."""

    cell: Cell
    a: float
    b: float
    change: Estimate

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out 0."""
        return not isnan(self.change.low) and (self.change.low > 0 or self.change.high < 0)


@dataclass(frozen=True)
class Comparison:
    """What changed, and the arms: in both, the largest change first; and those that only one of the runs has."""

    settings: tuple[tuple[str, Any, Any], ...]
    arms: tuple[Difference, ...]
    only_a: tuple[Cell, ...]
    only_b: tuple[Cell, ...]


def compare(a: Path, b: Path, metric: str = PRIMARY) -> Comparison:
    """Compare two finished runs by their folders.

    Raises:
        UserError: one of them is not finished.
    """
    boards = [read_board(folder) for folder in (a, b)]
    first, second = (Results.read(folder / "results.parquet") for folder in (a, b))
    mine, theirs = set(first.cells), set(second.cells)
    arms = [_difference(cell, first, second, metric) for cell in first.cells if cell in theirs]
    arms.sort(key=lambda each: -abs(each.change.estimate) if not isnan(each.change.estimate) else 0.0)
    return Comparison(
        tuple(changes(boards[0].config, boards[1].config)),
        tuple(arms),
        tuple(cell for cell in first.cells if cell not in theirs),
        tuple(cell for cell in second.cells if cell not in mine),
    )


def _difference(cell: Cell, a: Results, b: Results, metric: str) -> Difference:
    samples = a.sample(cell, metric), b.sample(cell, metric)
    means = [float(_mean(sample.values)) for sample in samples]
    return Difference(cell, means[0], means[1], paired_difference(samples[1], samples[0]))


def _mean(values: Any) -> float:
    import numpy as np

    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")


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
