"""Plain text for terminals and pipes alike: nothing is cut or wrapped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

    from redcloak.api import Interval


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table in Markdown."""
    lines = (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (head, *rows))
    first, *rest = lines
    return "\n".join((first, "|" + "---|" * len(head), *rest))


def interval(value: Interval) -> str:
    """``0.12 [0.10, 0.15]``; ``0.12 [no interval]`` where there is none, ``-`` where there is no number."""
    if isnan(value.estimate):
        return "-"
    ends = " [no interval]" if isnan(value.low) else f" [{value.low:.2f}, {value.high:.2f}]"
    return f"{value.estimate:.2f}{ends}"


def plain(model: BaseModel) -> Any:
    """A model in JSON types, null for what is not a number: what ``model_dump`` leaves as NaN."""
    return json.loads(model.model_dump_json())


def defined(value: Any) -> Any:
    """Values of JSON with null for what is not a number."""
    if isinstance(value, dict):
        return {name: defined(each) for name, each in value.items()}
    return None if isinstance(value, float) and isnan(value) else value


def document(value: object) -> str:
    """One JSON document for machines."""
    return json.dumps(value, indent=2, allow_nan=False)
