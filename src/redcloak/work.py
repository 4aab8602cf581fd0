"""One stage in one process: what travels to it, what comes back, and what happens to it."""

from __future__ import annotations

import importlib
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from redcloak.api import Progress
from redcloak.errors import UserError
from redcloak.matrix import Node
from redcloak.store import Store

Message = tuple[Literal["started", "progress"], str, int, int, dict[str, float]]
Send = Callable[[Message], None]


@dataclass(frozen=True)
class Event:
    """Something happened to a node; ``cached`` is told of those that are there and read, not of all behind them.

    ``done``, ``total`` and ``values`` are the stage's own progress (``progress`` only); ``seconds`` is the
    wall time of the node (``finished`` only).
    """

    kind: Literal["started", "progress", "cached", "finished", "failed"]
    node: Node
    done: int = 0
    total: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


class StageError(Exception):
    """A stage failed in a way that is not the user's to mend; ``trace`` is the traceback of where it ran."""

    def __init__(self, stage: str, reason: str, trace: str) -> None:
        super().__init__(stage, reason, trace)
        self.stage, self.reason, self.trace = stage, reason, trace

    def __str__(self) -> str:
        return f"stage {self.stage!r} failed: {self.reason}\n\n{self.trace}"


@dataclass(frozen=True)
class Task:
    """What travels to a worker: names, keys and JSON."""

    key: str
    function: str
    stage: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    transport: Mapping[str, Any]

    @classmethod
    def of(cls, node: Node, function: str) -> Task:
        """The task of a node."""
        return cls(node.key, function, node.stage, node.version, node.config, node.input_keys, node.transport)


def perform(task: Task, store: Store, send: Send) -> float:
    """Run one stage into the store; the seconds it took."""
    start = time.perf_counter()

    def report(done: int, total: int, values: dict[str, float]) -> None:
        # Tensors and NumPy scalars do not belong in a queue between processes.
        send(("progress", task.key, done, total, {name: float(value) for name, value in values.items()}))

    send(("started", task.key, 0, 0, {}))
    try:
        # Another run on the same store may have made it since this one looked.
        if store.find(task.key) is None:
            _publish(task, store, report)
    except UserError as error:
        raise UserError(*error.args) from error  # a subclass of its own might not survive pickling
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise StageError(task.stage, reason, traceback.format_exc()) from error
    return time.perf_counter() - start


def _publish(task: Task, store: Store, report: Progress) -> None:
    module, _, name = task.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    inputs = {name: _folder(store, key, task.stage) for name, key in task.inputs.items()}
    _forget_peak_memory()
    with store.publish(task.stage, task.version, task.config, task.inputs) as draft:
        transport = {**task.transport, "partial": str(store.partial(task.key))}
        draft.notes = function(task.stage, task.config, inputs, draft.folder, transport, report)
        draft.peak_memory_mb = _peak_memory_mb()
    shutil.rmtree(store.partial(task.key), ignore_errors=True)


def _folder(store: Store, key: str, stage: str) -> Path:
    artifact = store.open(key)
    if artifact is None:
        raise UserError(f"store {store.root}: an input of stage {stage!r} was damaged or deleted; run again.")
    return artifact.path


def _forget_peak_memory() -> None:
    """Let the high-water mark start anew, so that a reused worker measures the stage and not its past."""
    with suppress(OSError):  # Linux only; elsewhere the mark is of the whole process
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float | None:
    """The high-water mark of this process's resident memory in MiB."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
