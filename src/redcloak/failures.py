"""What a store remembers of tasks that failed: one JSON file for each, until the task succeeds."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Failed:
    """A task that failed: its key, stage and label, why, and how often; ``created`` is UTC in ISO 8601.

    ``trace`` is the traceback, empty where the user can mend it by what ``reason`` says.
    """

    key: str
    stage: str
    label: str
    reason: str
    trace: str
    created: str
    attempts: int = 1


class Failures:
    """The failures of a store's tasks, in a folder that is made with the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Failed | None:
        """The last failure of ``key``; None where it did not fail or has succeeded since."""
        try:
            return Failed(**json.loads((self.folder / f"{key}.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def all(self) -> Iterator[Failed]:
        """Every failure, in the order of keys."""
        found = (self.get(path.stem) for path in sorted(self.folder.glob("*.json")))
        return (failed for failed in found if failed)

    def record(self, key: str, stage: str, label: str, reason: str, trace: str) -> None:
        """Remember a failure; one more of the same task replaces it and counts on."""
        before = self.get(key)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        failed = Failed(key, stage, label, reason, trace, created, before.attempts + 1 if before else 1)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        beside = self.folder / f"{key}~{os.getpid()}{secrets.token_hex(4)}"
        beside.write_text(json.dumps(asdict(failed), indent=1) + "\n", encoding="utf-8")
        beside.replace(self.folder / f"{key}.json")

    def forget(self, key: str) -> None:
        """Strike out the failure of a task, where there is one."""
        with suppress(FileNotFoundError):
            (self.folder / f"{key}.json").unlink()
