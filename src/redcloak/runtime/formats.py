"""The number of a store's format, in its ``format.json``: a store of a higher one was made by a newer redcloak."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from redcloak.runtime.contents import replace
from redcloak.runtime.refused import StoreError

FORMAT = 1
DATA = json.dumps({"format": FORMAT}).encode()


def check_folder(root: Path) -> None:
    """Refuse a store of a newer format, which this version might misread or damage."""
    with suppress(FileNotFoundError):
        check((root / "format.json").read_bytes(), str(root))


def write(root: Path) -> None:
    """Write ``format.json`` where there is none."""
    path = root / "format.json"
    if not path.exists():
        replace(path, DATA)


def check(data: bytes, place: str) -> None:
    """Raise a :class:`StoreError` where ``format.json`` tells of a format that this version does not know."""
    try:
        found = int(json.loads(data)["format"])
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"store {place}: format.json is damaged; delete it if this is a store.") from None
    if found > FORMAT:
        raise StoreError(
            f"store {place}: made by a newer redcloak (format {found}; this one reads up to {FORMAT}); "
            "update redcloak, or choose another store."
        )
