"""What a store remembers of tasks that failed: one JSON file for each, until the task succeeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from redcloak.runtime.contents import replace


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
            return Failed(**json.loads(self._read(f"{key}.json")))
        except (OSError, ValueError, TypeError):
            return None

    def all(self) -> Iterator[Failed]:
        """Every failure, in the order of keys."""
        found = (self.get(name.removesuffix(".json")) for name in self._names())
        return (failed for failed in found if failed)

    def record(self, key: str, stage: str, label: str, reason: str, trace: str) -> None:
        """Remember a failure; one more of the same task replaces it and counts on."""
        before = self.get(key)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        failed = Failed(key, stage, label, reason, trace, created, before.attempts + 1 if before else 1)
        self._write(f"{key}.json", (json.dumps(asdict(failed), indent=1) + "\n").encode())

    def forget(self, key: str) -> None:
        """Strike out the failure of a task, where there is one."""
        self._delete(f"{key}.json")

    def _names(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*.json"))

    def _read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def _write(self, name: str, data: bytes) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        replace(self.folder / name, data)

    def _delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            (self.folder / name).unlink()
