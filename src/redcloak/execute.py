"""Run a graph: in this process, or in spawned workers that are reused from stage to stage.

Only keys, configurations and the store's path travel to workers; results go through the store. Running the
same graph again resumes: what is in the store is never computed again.
"""

from __future__ import annotations

import heapq
import importlib
import multiprocessing
import os
import signal
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from graphlib import TopologicalSorter
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, Literal

from redcloak.api import Progress
from redcloak.errors import UserError
from redcloak.matrix import Graph, Node, longest_paths
from redcloak.store import Store

POLL_SECONDS = 0.1
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


def run(
    graph: Graph,
    store: Store,
    function: str,
    targets: Iterable[Node] | None = None,
    workers: int = 1,
    on_event: Callable[[Event], None] = lambda event: None,
) -> None:
    """Make ``targets`` (the sinks of ``graph``) and whatever they need that the store does not hold.

    ``function`` is ``"package.module:callable"``, imported where it runs, with the signature
    ``(stage, config, inputs, out, transport, report) -> notes``: it reads the folders ``inputs`` (by name),
    fills the empty folder ``out``, calls ``report(done, total, values)``, and returns the manifest's notes.

    With one worker everything runs in this process, else in ``workers`` spawned ones. ``on_event`` is called
    in this thread. After a failure no new node starts, and those that run are finished before it is raised;
    on Ctrl-C they are given up.

    Raises:
        UserError: as a stage raised it; or a worker died; or the store cannot be written.
        StageError: a stage raised anything else.
    """
    missing, cached = graph.split(store.open, targets)
    for node in cached:
        on_event(Event("cached", node))
    if workers == 1:
        for node in missing:
            _run_here(node, store, function, on_event)
    elif missing:
        _run_in_pool(missing, store, function, workers, on_event)


def _run_here(node: Node, store: Store, function: str, on_event: Callable[[Event], None]) -> None:
    def send(message: Message) -> None:
        kind, _, done, total, values = message
        on_event(Event(kind, node, done, total, values))

    try:
        seconds = _perform(_Task.of(node, function), store, send)
    except (UserError, StageError):
        on_event(Event("failed", node))
        raise
    on_event(Event("finished", node, seconds=seconds))


@dataclass(frozen=True)
class _Task:
    """What travels to a worker: names, keys and JSON."""

    key: str
    function: str
    stage: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    transport: Mapping[str, Any]

    @classmethod
    def of(cls, node: Node, function: str) -> _Task:
        return cls(node.key, function, node.stage, node.version, node.config, node.input_keys, node.transport)


def _perform(task: _Task, store: Store, send: Send) -> float:
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


def _publish(task: _Task, store: Store, report: Progress) -> None:
    module, _, name = task.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    inputs = {name: _folder(store, key, task.stage) for name, key in task.inputs.items()}
    _forget_peak_memory()
    with store.publish(task.stage, task.version, task.config, task.inputs) as draft:
        draft.notes = function(task.stage, task.config, inputs, draft.folder, task.transport, report)
        draft.peak_memory_mb = _peak_memory_mb()


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


def _run_in_pool(
    missing: Sequence[Node],
    store: Store,
    function: str,
    workers: int,
    on_event: Callable[[Event], None],
) -> None:
    context = multiprocessing.get_context("spawn")
    messages: SimpleQueue[Message] = context.SimpleQueue()
    # Nothing is ever written to this pipe: that its end closes, by hand or by death, is the message.
    lifeline, held = context.Pipe(duplex=False)
    start = (messages, lifeline, os.getpid())
    with _worker_environment(workers):
        pool = ProcessPoolExecutor(workers, context, _start_worker, start)
        try:
            _Driver(missing, store, function, workers, on_event, pool, messages).drive()
        except BaseException:
            held.close()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for end in (held, lifeline, messages):
                end.close()
            store.sweep()


class _Driver:
    """Keeps every worker busy with the ready node that the longest chain waits for."""

    def __init__(
        self,
        missing: Sequence[Node],
        store: Store,
        function: str,
        workers: int,
        on_event: Callable[[Event], None],
        pool: ProcessPoolExecutor,
        messages: SimpleQueue[Message],
    ) -> None:
        self.store, self.function, self.workers = store, function, workers
        self.on_event, self.pool, self.messages = on_event, pool, messages
        self.nodes = {node.key: node for node in missing}
        self.paths = longest_paths(missing, _expectation(store, missing))
        self.sorter = TopologicalSorter(
            {key: self.nodes.keys() & node.input_keys.values() for key, node in self.nodes.items()}
        )
        self.ready: list[tuple[float, str]] = []
        self.running: dict[Future[float], Node] = {}
        self.started = False
        self.error: BaseException | None = None

    def drive(self) -> None:
        """Run every node; raise the first failure after those that run have finished."""
        self.sorter.prepare()
        self._submit()
        while self.running:
            finished, _ = wait(self.running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            self._relay()
            for future in finished:
                self._finish(future)
            self._submit()
        if self.error is not None:
            raise self.error

    def _submit(self) -> None:
        """Start as many nodes as there are free workers: none waits in a queue behind a shorter chain."""
        for key in self.sorter.get_ready():
            heapq.heappush(self.ready, (-self.paths[key], key))
        while self.ready and len(self.running) < self.workers and self.error is None:
            node = self.nodes[heapq.heappop(self.ready)[1]]
            try:
                with _interrupts_held():
                    future = self.pool.submit(_work, _Task.of(node, self.function), self.store.root)
            except BrokenProcessPool:
                self.error = self._death()
            else:
                self.running[future] = node

    def _relay(self) -> None:
        """Pass on what the workers have sent. They send before they return, so nothing comes too late."""
        while not self.messages.empty():
            kind, key, done, total, values = self.messages.get()
            self.started = True
            self.on_event(Event(kind, self.nodes[key], done, total, values))

    def _finish(self, future: Future[float]) -> None:
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            error = self._death()
        node = self.running.pop(future)
        if error is None:
            self.on_event(Event("finished", node, seconds=future.result()))
            self.sorter.done(node.key)
        else:
            self.on_event(Event("failed", node))
            self.error = self.error or error

    def _death(self) -> UserError:
        """What to tell when a worker is gone: which one it was is not known, only what was running."""
        if not self.started:
            return UserError(
                f"workers = {self.workers}: they could not start; call run() under "
                "`if __name__ == '__main__':`, or set workers = 1."
            )
        stages = sorted({node.stage for node in self.running.values()})
        return UserError(
            f"workers = {self.workers}: a worker died (running: {', '.join(stages) or 'nothing'}), most "
            "likely for want of memory; run again with fewer workers."
        )


def _expectation(store: Store, nodes: Sequence[Node]) -> Callable[[Node], float]:
    """Seconds per node: the median of its stage's history; all alike where there is none."""
    history = store.history(*{node.stage for node in nodes})
    seconds = {stage: statistics.median(past) for stage, past in history.items() if past}
    return lambda node: seconds.get(node.stage, 1.0)


@contextmanager
def _worker_environment(workers: int) -> Iterator[None]:
    """Divide the cores among workers that start in this block; what the user has set stays.

    Workers inherit it, so that it is there before anything imports torch.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = {"OMP_NUM_THREADS": str(max(1, cores // workers)), "OMP_WAIT_POLICY": "PASSIVE"}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while a worker is spawned: it inherits the mask, so that the driver alone answers."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_messages: SimpleQueue[Message] | None = None


def _start_worker(messages: SimpleQueue[Message], lifeline: Connection, driver: int) -> None:
    """Prepare a worker process: where its messages go, and that it ends with its driver."""
    global _messages
    _messages = messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(lifeline, driver), daemon=True).start()


def _watch(lifeline: Connection, driver: int) -> None:
    """End this process when the driver hangs up or is gone, whatever the stage is doing."""
    # A process that the driver has forked may keep the pipe open after its death: hence the second question.
    while os.getppid() == driver and not lifeline.poll(0.5):
        pass
    os._exit(1)


def _work(task: _Task, root: Path) -> float:
    assert _messages is not None
    return _perform(task, _store(root), _messages.put)


@lru_cache
def _store(root: Path) -> Store:
    """One store per worker: it remembers what it has verified."""
    return Store(root)
