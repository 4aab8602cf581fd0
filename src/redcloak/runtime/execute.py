"""Run a graph: in this process, in local workers that are reused from stage to stage, or over a Ray cluster.

Only keys, configurations and the store's URI travel to workers; results go through the store. Running the same graph
again resumes: what is in the store is never computed again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from redcloak.api import Needs
from redcloak.errors import unknown
from redcloak.runtime.matrix import Graph, Node
from redcloak.runtime.plan import History
from redcloak.runtime.refused import StoreError
from redcloak.runtime.schedule import Schedule
from redcloak.runtime.store import Store
from redcloak.runtime.work import Event, Failure, Message, Send, StageError, Task, perform

__all__ = ["Event", "Executor", "Failure", "Outcome", "StageError", "run"]

BUSY_SECONDS = 1.0  # until a node that another run has is looked at again


class Executor(Protocol):
    """Where tasks run. Entering it makes it ready, leaving it by an exception gives up what runs."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def fits(self, needs: Needs) -> bool:
        """Whether a task of these needs could start now.

        Raises:
            UserError: it never could.
        """
        ...

    def submit(self, task: Task) -> None:
        """Start a task that fits."""
        ...

    def wait(self, take: Send, seconds: float | None) -> None:
        """Hand on what has happened, after waiting for the first of it, but no longer than ``seconds``."""
        ...


@dataclass
class Outcome:
    """What became of a run: why nodes failed, and which were skipped because what they need had failed."""

    failed: dict[Node, Failure] = field(default_factory=dict)
    skipped: list[Node] = field(default_factory=list)

    def check(self) -> None:
        """Raise the first failure, where there is one, as :func:`run` does."""
        for node, failure in self.failed.items():
            raise failure.error(node.stage)


def run(
    graph: Graph,
    store: Store,
    function: str,
    targets: Iterable[Node] | None = None,
    workers: int = 1,
    on_event: Callable[[Event], None] = lambda event: None,
    *,
    executor: str | Executor = "local",
    threads: int | None = None,
    keep_going: bool = False,
    anew: bool = False,
    retries: int = 2,
) -> Outcome:
    """Make ``targets`` (the sinks of ``graph``) and whatever they need that the store does not hold.

    ``function`` is ``"package.module:callable"``, imported where it runs, with the signature
    ``(stage, config, inputs, out, transport, report) -> notes``: it reads the folders ``inputs`` (by name), fills the
    empty folder ``out``, calls ``report(done, total, values)``, and returns the manifest's notes.

    ``executor`` is ``"local"`` (with one worker everything runs in this process, else in ``workers`` spawned ones),
    ``"ray"`` (a Ray of ``workers`` cores on this machine), ``"ray:ADDRESS"`` (a cluster, all of it), or an object. Each
    worker computes with ``threads``, by default an equal share of the cores. ``on_event`` is called in this thread.

    A task whose worker dies starts anew, ``retries`` times. A failure is kept in ``store.failures``; then no new node
    starts, those that run are finished, and it is raised. With ``keep_going`` all that does not need what failed is
    made, and the outcome tells the rest. A full disk ends the run in either case; on Ctrl-C what runs is given up.

    With ``anew`` what is there is deleted first and made again; but not before the executor is ready and could take
    every task, nor while another run is at work in the store. Who reads the results afterwards does so in
    ``store.at_work()`` around it all, so that nobody deletes them meanwhile.

    Raises:
        UserError: as a stage raised it; or workers died; or the store or the cluster cannot be used.
        StageError: a stage raised anything else.
    """
    with ExitStack() as stack:
        stack.enter_context(store.at_work())  # before the first look: nobody is to delete what it finds
        missing, cached = graph.split((lambda _: None) if anew else store.open, targets)
        for node in cached:
            on_event(Event("cached", node))
        if not missing:
            return Outcome()
        seconds, needs = _experience(store)
        chosen = stack.enter_context(_executor(executor, store, workers, threads))
        if anew:
            _forget(missing, store, chosen, needs)
        driver = _Driver(Schedule(missing, seconds, needs), store, function, chosen, on_event, keep_going, retries)
        driver.drive()
    if not keep_going:
        driver.outcome.check()
    return driver.outcome


def _forget(nodes: Sequence[Node], store: Store, executor: Executor, needs: Callable[[Node], Needs]) -> None:
    """Delete what is there of ``nodes``, which the executor must be able to make."""
    for each in {needs(node) for node in nodes}:
        executor.fits(each)
    there = store.keys()
    store.forget(node.key for node in nodes if node.key in there)


class _Driver:
    """Keeps an executor busy and tells what happens; decides what becomes of what fails."""

    def __init__(
        self,
        schedule: Schedule,
        store: Store,
        function: str,
        executor: Executor,
        on_event: Callable[[Event], None],
        keep_going: bool,
        retries: int,
    ) -> None:
        self.schedule, self.store, self.function, self.executor = schedule, store, function, executor
        self.on_event, self.keep_going, self.retries = on_event, keep_going, retries
        self.name = secrets.token_hex(8)
        self.running: dict[str, Node] = {}
        self.losses: dict[str, int] = {}
        self.outcome = Outcome()
        self.ending = False

    def drive(self) -> None:
        """Run every node; after a failure that ends the run, only those that have started."""
        while True:
            self._submit()
            rest = None if self.ending else self.schedule.next_in()
            if not self.running and rest is None:
                return
            self.executor.wait(self._take, rest)

    def _submit(self) -> None:
        while not self.ending and (node := self.schedule.take(self.executor.fits)):
            self.running[node.key] = node
            self.executor.submit(Task.of(node, self.function, self.schedule.needs[node.key], self.name))

    def _take(self, message: Message) -> None:
        node = self.running[message.key]
        if message.kind not in ("started", "progress"):
            del self.running[message.key]
        if message.kind == "failed":
            self._fail(node, message.failure or Failure("no reason was given"))
            return
        self.on_event(Event(message.kind, node, message.done, message.total, message.values, message.seconds))
        if message.kind == "finished":
            self.schedule.done(node)
        elif message.kind == "busy":
            self.schedule.again(node, BUSY_SECONDS)
        elif message.kind == "lost":
            self._lose(node)

    def _lose(self, node: Node) -> None:
        losses = self.losses[node.key] = self.losses.get(node.key, 0) + 1
        if losses <= self.retries:
            self.schedule.again(node)
            return
        reason = f"{node.label or node.stage}: its worker died {losses} times, most likely for want of memory; "
        self._fail(node, Failure(f"{reason}run again with fewer workers, or with `memory: low`."))

    def _fail(self, node: Node, failure: Failure) -> None:
        self.outcome.failed[node] = failure
        self.ending = self.ending or failure.fatal or not self.keep_going
        if failure.fatal:
            raise StoreError(failure.reason)
        with suppress(OSError, StoreError):
            self.store.failures.record(node.key, node.stage, node.label, failure.reason, failure.trace)
        self.on_event(Event("failed", node, failure=failure))
        skipped = self.schedule.failed(node)
        self.outcome.skipped += skipped
        for other in skipped:
            self.on_event(Event("skipped", other))


class _Here:
    """One task at a time in this process."""

    def __init__(self, store: Store, threads: int | None) -> None:
        self.store, self.threads = store, threads
        self.task: Task | None = None

    def __enter__(self) -> Self:
        if self.threads:
            import torch

            torch.set_num_threads(self.threads)
        return self

    def __exit__(self, *error: object) -> None:
        """There is nothing to end."""

    def fits(self, needs: Needs) -> bool:
        return self.task is None

    def submit(self, task: Task) -> None:
        self.task = task

    def wait(self, take: Send, seconds: float | None) -> None:
        if self.task is None:
            time.sleep(seconds or 0.0)
            return
        message = perform(self.task, self.store, take)
        self.task = None
        take(message)


def _executor(
    chosen: str | Executor, store: Store, workers: int, threads: int | None
) -> AbstractContextManager[Executor]:
    if not isinstance(chosen, str):
        return chosen
    name, _, address = chosen.partition(":")
    if name == "local" and not address:
        if workers == 1:
            return _Here(store, threads)
        from redcloak.runtime.pool import Pool

        return Pool(store, workers, threads)
    if name == "ray":
        from redcloak.runtime.cluster import Cluster

        return Cluster(store.uri, address, workers, threads)
    raise unknown("executor", chosen, ("local", "ray", "ray:ADDRESS"))


def _experience(store: Store) -> tuple[Callable[[Node], float], Callable[[Node], Needs]]:
    """Seconds and needs per node, of the nearest past; the memory of what was never measured is what it states."""
    guess = History(store).guesses()

    def needs(node: Node) -> Needs:
        memory = guess(node).memory_mb
        return replace(node.needs, memory_mb=memory) if memory else node.needs

    return lambda node: guess(node).seconds or 1.0, needs
