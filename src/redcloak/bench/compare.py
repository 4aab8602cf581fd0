"""Two runs side by side: what changed in their matrices, and their arms, paired by subject and seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redcloak.bench.board import Board, read_board
from redcloak.bench.results import Cell, Results
from redcloak.errors import UserError
from redcloak.report.model import PRIMARY
from redcloak.stats import Comparison as Paired
from redcloak.stats import compare as paired


@dataclass(frozen=True)
class Comparison:
    """What changed; ``B`` against ``A`` in each arm that both have, the largest change first; and the others."""

    settings: tuple[tuple[str, Any, Any], ...]
    arms: dict[Cell, Paired]
    only_a: tuple[Cell, ...]
    only_b: tuple[Cell, ...]

    @property
    def too_few(self) -> str:
        """Why no arm can be certain, however much it changed; empty where one can."""
        tested = [each for each in self.arms.values() if each.tests]
        if not tested or any(each.subjects >= each.needed for each in tested):
            return ""
        one = tested[0]
        return f"{one.tests} arms are compared: with fewer than {one.needed} subjects none can be certain."


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
    family = {cell: (second.sample(cell, metric), first.sample(cell, metric)) for cell in first.cells if cell in theirs}
    arms = sorted(paired(family).items(), key=lambda each: -abs(np.nan_to_num(each[1].difference.estimate)))
    return Comparison(
        (*changes(boards[0].config, boards[1].config), *_photos(*boards)),
        dict(arms),
        tuple(cell for cell in first.cells if cell not in theirs),
        tuple(cell for cell in second.cells if cell not in mine),
    )


def _photos(a: Board, b: Board) -> Iterator[tuple[str, Any, Any]]:
    """Subjects whose label is the same, and whose photos are not."""
    for who, mine in a.photos.items():
        if (theirs := b.photos.get(who, mine)) != mine:
            yield f"photos of {who}", mine[:12], theirs[:12]


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
