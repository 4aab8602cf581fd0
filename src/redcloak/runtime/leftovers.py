"""What failed and killed runs leave in the folder of a store, and what of it nobody needs any more."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Set
from pathlib import Path

from redcloak.runtime.lease import alive, machine

OLD_SECONDS = 86_400.0  # after which a draft of another machine, which cannot be asked, counts as left behind


def sweep_drafts(drafts: Path) -> None:
    """Delete the drafts of processes of this machine that are dead; a draft is called ``MACHINE~PID~...``."""
    for folder in drafts.glob(f"{machine()}~*"):
        if not alive(int(folder.name.split("~")[1])):
            shutil.rmtree(folder, ignore_errors=True)


def left(root: Path, needed: Set[str]) -> Iterator[Path]:
    """What was damaged, the states that no key of ``needed`` goes on from, and old drafts of other machines."""
    yield from (root / "quarantine").glob("*")
    yield from (path for path in (root / "partial").glob("*") if path.name not in needed)
    foreign = (path for path in (root / "tmp").glob("*~*") if not path.name.startswith(f"{machine()}~"))
    yield from (path for path in foreign if time.time() - path.stat().st_mtime > OLD_SECONDS)
