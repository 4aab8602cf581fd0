"""One stage in one process: what travels to it, what comes back, and what happens to it."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from redcloak.api import Needs, Progress
from redcloak.errors import UserError
from redcloak.runtime.matrix import Node
from redcloak.runtime.refused import StoreError
from redcloak.runtime.store import Store


@dataclass(frozen=True)
class Failure:
    """Why a task failed, in words: those travel and are kept, exceptions do not.

    ``trace`` is the traceback of where it ran, empty for a user's mistake; ``fatal``: no other task would fare better.
    """

    reason: str
    trace: str = ""
    fatal: bool = False

    def error(self, stage: str) -> UserError | StageError:
        """The exception that says it."""
        return StageError(stage, self.reason, self.trace) if self.trace else UserError(self.reason)


@dataclass(frozen=True)
class Message:
    """What a worker says of a task: ``finished``, ``failed`` or ``busy`` (another run is at it) is its last word.

    ``lost`` is said by the executor, of a task whose worker is gone. ``seconds`` is the wall time of the task.
    """

    kind: Literal["started", "progress", "finished", "failed", "busy", "lost"]
    key: str
    done: int = 0
    total: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    failure: Failure | None = None


Send = Callable[[Message], None]


@dataclass(frozen=True)
class Event:
    """Something happened to a node; ``cached`` is told of those that are there and read, not of all behind them.

    ``done``, ``total`` and ``values`` are the stage's own progress (``progress`` only); ``seconds`` is the wall time of
    the node (``finished`` only); ``failure`` says why it ``failed``. A node is ``lost`` when its worker died, and
    starts anew; ``busy`` when another run on the same store has it, and is looked at again; ``skipped`` when what it
    needs has failed.
    """

    kind: Literal["started", "progress", "cached", "finished", "failed", "busy", "lost", "skipped"]
    node: Node
    done: int = 0
    total: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    failure: Failure | None = None


class StageError(Exception):
    """A stage failed in a way that is not the user's to mend; ``trace`` is the traceback of where it ran."""

    def __init__(self, stage: str, reason: str, trace: str) -> None:
        super().__init__(stage, reason, trace)
        self.stage, self.reason, self.trace = stage, reason, trace

    def __str__(self) -> str:
        return f"stage {self.stage!r} failed: {self.reason}\n\n{self.trace}"


@dataclass(frozen=True)
class Task:
    """What travels to a worker: names, keys and JSON. ``run`` names the run that it is part of."""

    key: str
    function: str
    stage: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    transport: Mapping[str, Any]
    needs: Needs = field(default_factory=Needs)
    run: str = ""

    @classmethod
    def of(cls, node: Node, function: str, needs: Needs | None = None, run: str = "") -> Task:
        """The task of a node."""
        settings = (node.config, node.input_keys, node.transport)
        return cls(node.key, function, node.stage, node.version, *settings, needs or node.needs, run)


def perform(task: Task, store: Store, send: Send) -> Message:
    """Run one stage into the store, unless another run is at it; the last word about it."""
    start = time.perf_counter()

    def report(done: int, total: int, values: dict[str, float]) -> None:
        # Tensors and NumPy scalars do not belong in a pipe between processes.
        plain = {name: float(value) for name, value in values.items()}
        send(Message("progress", task.key, done, total, plain))

    try:
        with store.lease(task.key, task.run) as ours:
            if not ours:
                return Message("busy", task.key)
            send(Message("started", task.key))
            # Another run on the same store may have made it since this one looked.
            if store.find(task.key) is None:
                _publish(task, store, report)
    except UserError as error:
        return Message("failed", task.key, failure=Failure(str(error), fatal=isinstance(error, StoreError)))
    except (Exception, SystemExit) as error:
        failure = Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
        return Message("failed", task.key, failure=failure)
    return Message("finished", task.key, seconds=time.perf_counter() - start)


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
        raise UserError(f"store {store.uri}: an input of stage {stage!r} was damaged or deleted; run again.")
    return artifact.path


def _forget_peak_memory() -> None:
    """Let the high-water mark start anew, so that a reused worker measures the stage and not its past."""
    with suppress(OSError):  # Linux only; elsewhere the mark is of the whole process
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float | None:
    """The high-water mark of this process's resident memory in MiB."""
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")
    if status.exists():  # what was reset; getrusage also remembers more than that
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) / 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
