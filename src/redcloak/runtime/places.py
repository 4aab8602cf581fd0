"""Where a store is: a folder of this machine, or a place that fsspec reaches (``s3://``, ``gs://`` and others)."""

from __future__ import annotations

from pathlib import Path

from redcloak.errors import UserError
from redcloak.runtime.store import Store


def find_store(place: str | Path) -> Store | None:
    """The store at a path or URI, to be read only; None where there is none, and none is made.

    Raises:
        StoreError: nobody can tell, since it cannot be reached; or it cannot be used.
    """
    store = open_store(place, read_only=True)
    return store if store.there else None


def existing(place: str | Path, read_only: bool = True) -> Store:
    """The store at a path or URI, which must be there.

    Raises:
        UserError: it is not.
    """
    found = find_store(place)
    if found is None:
        raise UserError(f"store {place}: there is none; run the matrix first, or name another --store.")
    return found if read_only else open_store(place)


def open_store(place: str | Path, read_only: bool = False) -> Store:
    """The store at a path or URI.

    Raises:
        StoreError: it cannot be reached or used.
    """
    if "://" in str(place):
        from redcloak.runtime.remote import RemoteStore

        return RemoteStore(str(place), read_only)
    return Store(Path(place), read_only)
