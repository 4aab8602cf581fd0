"""What the disk of a store refuses, in one line that a person can act on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redcloak.errors import UserError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})


class StoreError(UserError):
    """The store itself cannot be used: its disk is full, refuses, or a newer redcloak made it."""


@contextmanager
def explained(root: Path, numbers: frozenset[int]) -> Iterator[None]:
    """Turn the operating system's errors of these numbers, said by the store under ``root``, into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        # Writers outside Python (safetensors) say it in words only.
        if number in FULL or "No space left on device" in str(error):
            raise StoreError(f"store {root}: the disk is full; free some space and run again.") from error
        if number not in numbers:
            raise
        raise StoreError(f"store {root}: {error}; choose a folder that you may write to.") from error
