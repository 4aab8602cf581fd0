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
GONE = "~"  # in place of an owner, where a lease is no more
STALE_SECONDS = 30.0  # no sign of life for so long means dead, where the process cannot be asked


@contextmanager
def lease(path: Path, run: str = "") -> Iterator[bool]:
    """Whether ``path`` is ours for this block: made by us, or left behind by the dead.

    ``run`` names a run that gives a key to one worker at a time: what another of its workers holds, that one has lost.
    """
    owner = f"{machine()}~{os.getpid()}~{run}~{secrets.token_hex(8)}"
    if not _taken(path, owner, run):
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


def _taken(path: Path, owner: str, run: str) -> bool:
    if _created(path, owner):
        return True
    dead = _left_by(path, run)
    return dead is not None and _cleared(path, dead) and _created(path, owner)


def _left_by(path: Path, run: str) -> str | None:
    """The owner of a lease who is dead, as far as can be told, or of the run that asks; None where they live."""
    try:
        silent = time.time() - path.stat().st_mtime
        owner = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return GONE
    return owner if silent > STALE_SECONDS or _is_void(owner, run) else None


def _is_void(owner: str, run: str) -> bool:
    try:
        where, pid, of, _ = owner.split("~")
    except ValueError:  # its maker was killed before it had written its name, or is about to
        return False
    return (where == machine() and not alive(int(pid))) or of == run != ""


def sweep(folder: Path) -> None:
    """Delete the leases of the dead, as far as can be told."""
    for path in folder.glob(KEY):
        with suppress(OSError):
            if (dead := _left_by(path, "")) is not None:
                _cleared(path, dead)


def held(folder: Path, but: str = "") -> bool:
    """Whether anybody who lives, as far as can be told, holds a lease in a folder, other than that of this name."""
    return any(_left_by(path, "") is None for path in folder.glob(KEY) if path.name != but)


def _cleared(path: Path, dead: str) -> bool:
    """Take the lease of ``dead`` away, by renaming, so that one of several does it; it may be another's by now."""
    if dead == GONE:
        return True
    aside = path.with_name(f"{path.name}~{secrets.token_hex(4)}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    owner = aside.read_text(encoding="utf-8")
    if owner != dead:
        _put_back(aside, path, owner)
    aside.unlink()
    return owner == dead


def _put_back(aside: Path, path: Path, owner: str) -> None:
    try:
        os.link(aside, path)  # the same file: its owner may be about to write its name
    except FileExistsError:  # a third was faster
        pass
    except OSError:  # no links here
        _created(path, owner)


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)


def machine() -> str:
    """What the processes that can ask each other whether they live have in common: the host and, on Linux, a namespace.

    Containers may share a host's name, each with process ids of its own.
    """
    try:
        return f"{socket.gethostname()}+{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


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
