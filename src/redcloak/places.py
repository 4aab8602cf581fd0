"""Where a store is: a folder of this machine, or a place that fsspec reaches (``s3://``, ``gs://`` and others)."""

from __future__ import annotations

from pathlib import Path

from redcloak.store import Store


def open_store(place: str | Path, read_only: bool = False) -> Store:
    """The store at a path or URI.

    Raises:
        StoreError: it cannot be reached or used.
    """
    if "://" in str(place):
        from redcloak.remote import RemoteStore

        return RemoteStore(str(place), read_only)
    return Store(Path(place), read_only)
