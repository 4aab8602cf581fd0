"""The long table of scores: one row per image and metric, kept as parquet, held as numpy columns.

Columns: ``subject``, ``arm`` (one path through the audit), ``seed``, ``source`` (``generated`` pictures or
the ``photos`` that a model was personalized on), ``prompt``, ``image`` (a name), ``metric``, and ``value``
(NaN where the metric is undefined for that image, such as the identity of a picture without a face).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from redcloak.errors import UserError
from redcloak.stats import Sample

Source = Literal["generated", "photos"]
Strings = NDArray[np.str_]


class Row(NamedTuple):
    """One score of one image."""

    subject: str
    arm: str
    seed: int
    source: Source
    prompt: str
    image: str
    metric: str
    value: float


class Scores(Protocol):
    """What verdicts, comparisons and checks ask of the long table: one arm's values of one metric."""

    def sample(self, arm: str, metric: str, source: Source = "generated") -> Sample: ...


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length ``(N,)``: strings, an int64 ``seed``, a float64 ``value``."""

    subject: Strings
    arm: Strings
    seed: NDArray[np.int64]
    source: Strings
    prompt: Strings
    image: Strings
    metric: Strings
    value: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Table:
        """A table of rows; no row gives an empty table."""
        columns = list(zip(*rows, strict=True)) or [()] * len(NAMES)
        return cls(**{name: _column(name, column) for name, column in zip(NAMES, columns, strict=True)})

    @classmethod
    def concat(cls, tables: Sequence[Table]) -> Table:
        """The rows of all tables, in order."""
        parts = [Table.of([]), *tables]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in NAMES})

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read parquet; a :class:`UserError` names the file and what is wrong with it."""
        try:
            stored = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"cannot read the scores {path}: {error}; write them with `redcloak score`.") from None
        missing = [name for name in NAMES if name not in stored.column_names]
        if missing:
            raise UserError(f"{path} is not a table of scores: column {missing[0]!r} is missing.")
        return cls(**{name: _column(name, stored[name].to_pylist()) for name in NAMES})

    def write(self, path: Path) -> Path:
        """Write parquet, whole or not at all."""
        buffer = io.BytesIO()
        pq.write_table(pa.table({name: getattr(self, name).tolist() for name in NAMES}, schema=SCHEMA), buffer)
        return write_whole(path, buffer.getvalue())

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.value)

    def select(self, **wanted: str | int) -> Table:
        """The rows whose columns have these values: ``select(arm="clean", metric="identity")``."""
        keep = np.ones(len(self), dtype=bool)
        for name, value in wanted.items():
            keep &= getattr(self, name) == value
        return Table(**{name: getattr(self, name)[keep] for name in NAMES})

    def sample(self, arm: str, metric: str, source: Source = "generated") -> Sample:
        """The values of one arm and metric with their subjects and seeds, for :mod:`redcloak.stats`."""
        rows = self.select(arm=arm, metric=metric, source=source)
        return Sample(rows.value, rows.subject, rows.seed)


NAMES = tuple(field.name for field in fields(Table))
SCHEMA = pa.schema([(name, {"seed": pa.int64(), "value": pa.float64()}.get(name, pa.string())) for name in NAMES])


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file beside its place and rename it there, so that a kill leaves the old one or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):  # of a read-only disk not even that a file is missing can be learnt
            beside.unlink()
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --out or free some space.") from None
    return path


def _column(name: str, values: Sequence[Any]) -> NDArray[Any]:
    kinds: dict[str, type] = {"seed": np.int64, "value": np.float64}
    return np.asarray(values, dtype=kinds.get(name, np.str_))
