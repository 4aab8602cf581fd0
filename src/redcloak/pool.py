"""Spawned workers that are reused from stage to stage, kept busy, and that never outlive their driver."""

from __future__ import annotations

import heapq
import multiprocessing
import os
import signal
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from graphlib import TopologicalSorter
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from redcloak.errors import UserError
from redcloak.matrix import Node, longest_paths
from redcloak.store import Store
from redcloak.work import Event, Message, Task, perform

POLL_SECONDS = 0.1


def run_in_pool(
    missing: Sequence[Node],
    store: Store,
    function: str,
    workers: int,
    on_event: Callable[[Event], None],
) -> None:
    """Run ``missing`` in spawned workers, which are reused and end with this process."""
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
                    future = self.pool.submit(_work, Task.of(node, self.function), self.store.root)
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


def _work(task: Task, root: Path) -> float:
    assert _messages is not None
    return perform(task, _store(root), _messages.put)


@lru_cache
def _store(root: Path) -> Store:
    """One store per worker: it remembers what it has verified."""
    return Store(root)
