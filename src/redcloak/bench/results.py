"""Every score of a matrix: one row per image and metric, with every axis, the key of its artifact, and its red flags.

``results.parquet`` is what everything else is read from: the leaderboard, comparisons, claims, and whatever a reader
asks of it with DuckDB or pandas. In memory the scores are grouped by arm, so that an interval is a look-up.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from redcloak.bench.axes import NOTHING, PLAIN
from redcloak.bench.grid import NO_BUDGET, Arm, Axes, Matrix
from redcloak.errors import UserError
from redcloak.report.table import Source, write_whole
from redcloak.runtime.matrix import Node
from redcloak.runtime.store import Artifact
from redcloak.stats import Sample

Thing = TypeVar("Thing")
Place = tuple[str, str]  # protection, budget
Teams = Mapping[Place, Mapping[tuple[str, str, str], list["Cell"]]]  # place -> red team -> its cells
AXES = tuple(name for name in Axes._fields if name not in ("budget", "seed"))
WORDS = ("protocol", "suite", *AXES, "source", "prompt", "image", "metric", "key", "red_flags")
SCHEMA = pa.schema(
    [(name, pa.dictionary(pa.int32(), pa.string())) for name in WORDS]
    + [("version", pa.int32()), ("seed", pa.int64()), ("budget", pa.float64()), ("value", pa.float64())]
)


class Cell(NamedTuple):
    """A place in the tables: an arm without its subject and seed; subjects and seeds are what intervals are over."""

    protection: str
    budget: str
    purifier: str
    trainer: str
    decoupling: str
    prompts: str

    @classmethod
    def of(cls, axes: Axes) -> Cell:
        """The cell of an arm."""
        return cls(*axes[1:7])

    @property
    def team(self) -> tuple[str, str, str]:
        """What the red team did: purifier, trainer, decoupling."""
        return self.purifier, self.trainer, self.decoupling

    @property
    def photos(self) -> tuple[str, str, str]:
        """The photos that were trained on: protection, budget, purifier."""
        return self.protection, self.budget, self.purifier


class Score(NamedTuple):
    """One row."""

    axes: Axes
    source: Source
    prompt: str
    image: str
    metric: str
    value: float
    key: str


Group = tuple[Any, Source, str]


@dataclass
class Results:
    """The scores of a matrix, and the red flags of its cells."""

    protocol: str
    version: int
    suite: str
    rows: list[Score]
    flags: dict[Cell, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, matrix: Matrix, read: Callable[[Node], Artifact], arms: Iterable[Arm]) -> Results:
        """The scores of the arms that are finished; those of photos once, whatever was trained on them."""
        config, rows, seen = matrix.config, list[Score](), set[tuple[str, ...]]()
        for arm in arms:
            rows += _read(arm.axes, "generated", arm.scores, read)
            if arm.photo_scores is None:
                continue
            photos = (*Cell.of(arm.axes).photos, arm.photo_scores.key)  # two labels may be one artifact
            if photos not in seen:
                seen.add(photos)
                axes = arm.axes._replace(trainer=NOTHING, decoupling=PLAIN, prompts=NOTHING)
                rows += _read(axes, "photos", arm.photo_scores, read)
        return cls(config.protocol, config.version, config.suite, rows)

    @cached_property
    def groups(self) -> dict[Group, Sample]:
        """The scores of each cell, or of each set of photos: (cell, source, metric) -> sample."""
        columns: dict[Group, tuple[list[float], list[str], list[int]]] = {}
        for row in self.rows:
            cell = Cell.of(row.axes)
            place = cell if row.source == "generated" else cell.photos
            values, subjects, seeds = columns.setdefault((place, row.source, row.metric), ([], [], []))
            values.append(row.value)
            subjects.append(row.axes.subject)
            seeds.append(int(row.axes.seed))
        return {group: _sample(*found) for group, found in columns.items()}

    @cached_property
    def cells(self) -> list[Cell]:
        """Every cell that has a generated picture, in order."""
        return list(dict.fromkeys(Cell.of(row.axes) for row in self.rows if row.source == "generated"))

    def sample(self, cell: Cell, metric: str, source: Source = "generated") -> Sample:
        """The values of a cell; empty where it has none."""
        place = cell if source == "generated" else cell.photos
        return self.groups.get((place, source, metric), EMPTY)

    def over(self, cells: Iterable[Cell], metric: str) -> Sample:
        """The values of several cells together, such as of one arm under all prompts."""
        samples = [self.sample(cell, metric) for cell in cells]
        parts = [(sample.values, sample.subjects, sample.seeds) for sample in samples if len(sample.values)]
        if not parts:
            return EMPTY
        return Sample(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    @property
    def metrics(self) -> list[str]:
        """The names of the scores of generated pictures."""
        return list(dict.fromkeys(metric for _, source, metric in self.groups if source == "generated"))

    def write(self, path: Path) -> Path:
        """Write parquet, whole or not at all; photos have the flags of every arm that was trained on them."""
        columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        words = {cell: " ".join(flags) for cell, flags in self.flags.items()}
        of_photos = {place: _union(self.flags[cell] for cell in cells) for place, cells in self._on_photos().items()}
        same = {"protocol": self.protocol, "version": self.version, "suite": self.suite}
        for row in self.rows:
            for name, value in same.items():
                columns[name].append(value)
            for name in AXES:
                columns[name].append(getattr(row.axes, name))
            for name in ("source", "prompt", "image", "metric", "value", "key"):
                columns[name].append(getattr(row, name))
            columns["seed"].append(int(row.axes.seed))
            columns["budget"].append(None if row.axes.budget == NO_BUDGET else float(row.axes.budget))
            cell = Cell.of(row.axes)
            said = of_photos.get(cell.photos, "") if row.source == "photos" else words.get(cell, "")
            columns["red_flags"].append(said)
        table = pa.table(
            {name: pa.array(columns[name], kind) for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)}
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return write_whole(path, buffer.getvalue())

    def _on_photos(self) -> dict[tuple[str, str, str], list[Cell]]:
        return by(self.flags, lambda cell: cell.photos)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what :meth:`write` wrote.

        Raises:
            UserError: the file is not there, or is none of ours.
        """
        try:
            columns = pq.read_table(path).to_pydict()
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"cannot read the results {path}: {error}; `redcloak bench run` writes them.") from None
        missing = [name for name in SCHEMA.names if name not in columns]
        if missing:
            raise UserError(f"{path}: the column {missing[0]!r} is missing; `redcloak bench report` writes it anew.")
        columns["budget"] = [NO_BUDGET if budget is None else f"{budget:g}" for budget in columns["budget"]]
        axes = [Axes(*map(str, each)) for each in zip(*(columns[name] for name in Axes._fields), strict=True)]
        rest = (columns[name] for name in ("source", "prompt", "image", "metric", "value", "key"))
        rows = [Score(*each) for each in zip(axes, *rest, strict=True)]
        said = zip(rows, columns["red_flags"], strict=True)
        flags = {Cell.of(row.axes): tuple(words.split()) for row, words in said if row.source == "generated"}
        first = {name: columns[name][0] if rows else "" for name in ("protocol", "version", "suite")}
        return cls(str(first["protocol"]), int(first["version"] or 0), str(first["suite"]), rows, flags)


EMPTY = Sample(np.zeros(0), np.zeros(0, dtype=str), np.zeros(0, dtype=np.int64))


def _read(axes: Axes, source: Source, node: Node, read: Callable[[Node], Artifact]) -> list[Score]:
    rows = json.loads((read(node).path / "scores.json").read_text("utf-8"))
    return [Score(axes, source, prompt, image, metric, value, node.key) for prompt, image, metric, value in rows]


def _sample(values: list[float], subjects: list[str], seeds: list[int]) -> Sample:
    return Sample(np.asarray(values, dtype=np.float64), np.asarray(subjects), np.asarray(seeds, dtype=np.int64))


def _union(flags: Iterable[tuple[str, ...]]) -> str:
    return " ".join(dict.fromkeys(flag for each in flags for flag in each))


def teams_of(matrix: Matrix) -> Teams:
    """The cells that a matrix is to have, by the protection at a budget and by the red team."""
    cells = dict.fromkeys(Cell.of(arm.axes) for arm in matrix.arms)
    places = by(cells, lambda cell: (cell.protection, cell.budget))
    return {place: by(mine, lambda cell: cell.team) for place, mine in places.items()}


def by(things: Iterable[Thing], key: Callable[[Thing], Any]) -> dict[Any, list[Thing]]:
    """Cells or arms grouped, in order."""
    found: dict[Any, list[Thing]] = {}
    for thing in things:
        found.setdefault(key(thing), []).append(thing)
    return found
