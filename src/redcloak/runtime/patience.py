"""A file system whose calls are tried again when the network or the service hiccups.

Anything is tried again but what is sure to be answered in the same way: the thing is not there, may not be read, cannot
be done, or there is no room.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

from redcloak.runtime.refused import FULL, REFUSED

PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before each further try, half of it at random, so that workers do not march
FINAL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
FALSE = (ImportError, ValueError, TypeError, NotImplementedError, AttributeError)


class Patient:
    """A stand-in for an fsspec file system: the same calls, each made up to five times."""

    def __init__(self, fs: Any, pause: Callable[[float], None] = time.sleep) -> None:
        self._fs, self._pause = fs, pause
        self._random = Random()  # of pauses alone: no result depends on it

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._fs, name)
        return self._patiently(found) if callable(found) else found

    def _patiently(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def tried(*args: Any, **kwargs: Any) -> Any:
            for pause in PAUSES:
                try:
                    return call(*args, **kwargs)
                except Exception as error:
                    if _is_final(error):
                        raise
                self._pause(pause * self._random.uniform(0.5, 1))
            return call(*args, **kwargs)

        return tried


def _is_final(error: Exception) -> bool:
    certain = isinstance(error, OSError) and error.errno in FULL | REFUSED
    return certain or isinstance(error, (*FINAL, *FALSE))
