"""The state of a long method on disk: one safetensors file, written beside and renamed into place."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STATE = "state.safetensors"
SECONDS = 60.0
COST = 20  # saving may take a twentieth of the time


class FileCheckpoint:
    """Keeps the last state in ``folder``, at most once a minute, and seldom enough to cost 5 % of the time at most."""

    def __init__(self, folder: Path, seconds: float | None = None) -> None:
        self.folder, self.seconds = folder, SECONDS if seconds is None else seconds
        self.path = folder / STATE
        self.due = time.monotonic() + self.seconds

    def load(self) -> dict[str, Tensor]:
        """The state that was kept last; empty where there is none, or it cannot be read."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.path) if self.path.exists() else {}
        except (OSError, SafetensorError):
            return {}

    def save(self, state: Callable[[], dict[str, Tensor]]) -> None:
        """Keep a state, where the last is old enough; it is only then asked for."""
        from safetensors.torch import save_file

        begun = time.monotonic()
        if begun < self.due:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self.path.with_suffix(f".{os.getpid()}")
        save_file({name: _own(value) for name, value in state().items()}, beside)
        beside.replace(self.path)
        now = time.monotonic()
        self.due = now + max(self.seconds, COST * (now - begun))


def _own(value: Tensor) -> Tensor:
    """The value on the host with a storage of its own, as safetensors wants it; copied only where it has none."""
    value = value.detach().cpu().contiguous()
    alone = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return value if alone else value.clone()
