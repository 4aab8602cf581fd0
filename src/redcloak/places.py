"""Where a store is: a folder of this machine, or a place that fsspec reaches (``s3://``, ``gs://`` and others)."""

from __future__ import annotations

from pathlib import Path

from redcloak.store import Store


def is_there(place: str | Path) -> bool:
    """Whether there is a store at a path or URI; none is made.

    Raises:
        StoreError: nobody can tell, since it cannot be reached.
    """
    if "://" not in str(place):
        return Path(place).is_dir()
    from redcloak.remote import RemoteStore

    return RemoteStore(str(place), read_only=True).there


def open_store(place: str | Path, read_only: bool = False) -> Store:
    """The store at a path or URI.

    Raises:
        StoreError: it cannot be reached or used.
    """
    if "://" in str(place):
        from redcloak.remote import RemoteStore

        return RemoteStore(str(place), read_only)
    return Store(Path(place), read_only)
