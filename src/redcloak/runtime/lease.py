"""One worker for one key at a time: a file that says who is at it, touched while they live.

A lease spares work and is not what keeps artifacts whole: publishing is atomic, so that two workers at one key, which a
slow disk or a stopped process may bring about, do the same work twice and do no harm.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT_SECONDS = 5.0
KEY = "[0-9a-f]" * 64  # what the leases of a store are called
STALE_SECONDS = 30.0  # no sign of life for so long means dead, where the process cannot be asked


@contextmanager
def lease(path: Path, run: str = "") -> Iterator[bool]:
    """Whether ``path`` is ours for this block: made by us, or left behind by the dead.

    ``run`` names a run that gives a key to one worker at a time: what another of its workers holds, that one has lost.
    """
    owner = f"{socket.gethostname()}~{os.getpid()}~{run}~{secrets.token_hex(8)}"
    if not (_created(path, owner) or (_abandoned(path, run) and _cleared(path) and _created(path, owner))):
        yield False
        return
    done = threading.Event()
    threading.Thread(target=_beat, args=(path, done), daemon=True).start()
    try:
        yield True
    finally:
        done.set()
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == owner:
                path.unlink()


def _created(path: Path, owner: str) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return False
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(owner)
    except OSError:  # a full disk: an empty lease would keep everybody out until it is stale
        path.unlink()
        raise
    return True


def _abandoned(path: Path, run: str) -> bool:
    """Whether the holder is dead, as far as can be told, or belongs to the run that asks."""
    try:
        silent = time.time() - path.stat().st_mtime
        host, pid, held, _ = path.read_text(encoding="utf-8").split("~")
    except FileNotFoundError:
        return True
    except ValueError:  # its maker was killed before it had written its name, or is about to
        return silent > STALE_SECONDS
    dead = host == socket.gethostname() and not alive(int(pid))
    return dead or silent > STALE_SECONDS or (held == run != "")


def sweep(folder: Path) -> None:
    """Delete the leases of the dead, as far as can be told."""
    for path in folder.glob(KEY):
        with suppress(OSError):
            if _abandoned(path, ""):
                _cleared(path)


def held(folder: Path, but: str = "") -> bool:
    """Whether anybody who lives, as far as can be told, holds a lease in a folder, other than that of this name."""
    return any(not _abandoned(path, "") for path in folder.glob(KEY) if path.name != but)


def _cleared(path: Path) -> bool:
    """Take an abandoned lease away; by renaming, so that one of several does it."""
    aside = path.with_name(f"{path.name}~{secrets.token_hex(4)}")
    try:
        path.rename(aside)
        aside.unlink()
    except FileNotFoundError:
        return False
    return True


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)


def alive(pid: int) -> bool:
    """Whether a process of this machine is alive; in doubt it is."""
    if sys.platform == "win32":  # where os.kill with signal 0 ends the process
        return True
    try:
        os.kill(pid, 0)
        # Where nobody collects dead orphans (containers) they answer still; Linux tells them by their state.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except OSError:
        return True
