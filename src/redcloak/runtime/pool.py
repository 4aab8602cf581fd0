"""Local workers: spawned processes that are reused from stage to stage, and that never outlive their driver.

A worker keeps what it has loaded, so that a backbone is read once per worker. Each has a pipe of its own: what one of
them does or suffers touches no other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Self

from redcloak.api import Needs
from redcloak.errors import UserError
from redcloak.runtime.hardware import Hardware
from redcloak.runtime.places import open_store
from redcloak.runtime.store import Store
from redcloak.runtime.work import Message, Send, Task, perform

GRACE_SECONDS = 2.0  # for a worker to end by itself; it is killed then
ROUNDING = 1e-9  # of sums of fractions


@dataclass
class _Worker:
    """A worker process, the GPU it sees (where there are several), and the task that it runs."""

    process: BaseProcess
    pipe: Connection
    gpu: str | None
    task: Task | None = None
    ready: bool = False


class Pool:
    """An executor of at most ``workers`` processes, each with ``threads``: by default an equal share of the cores.

    Tasks start while their cores and memory are there; one that asks for more than there is runs alone. On a machine
    with several GPUs each worker sees one of them, in turn, as ``cuda``.
    """

    def __init__(
        self, store: Store, workers: int, threads: int | None = None, hardware: Hardware | None = None
    ) -> None:
        self.store, self.workers = store, workers
        self.hardware = hardware or Hardware.here()
        self.threads = threads or max(1, self.hardware.cores // workers)
        self.team: list[_Worker | None] = [None] * workers
        self.proved = False  # that workers can start here

    def __enter__(self) -> Self:
        self.context = multiprocessing.get_context("spawn")
        if sys.platform != "win32":
            # Started here, not with the first worker: its start lets Ctrl-C through, which a worker must not inherit.
            resource_tracker.ensure_running()
        # Nothing is ever written to this pipe: that its end closes, by hand or by death, is the message.
        self.lifeline, self.held = self.context.Pipe(duplex=False)
        return self

    def __exit__(self, *error: object) -> None:
        team = [worker for worker in self.team if worker]
        for worker in team:
            worker.pipe.close()
        if any(error):
            self.held.close()
        for worker in team:
            worker.process.join(GRACE_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.process.close()
        self.held.close()
        self.lifeline.close()
        if not self.store.read_only:
            self.store.sweep()

    def fits(self, needs: Needs) -> bool:
        """Whether a task of these needs could start now.

        Raises:
            UserError: it needs a GPU and there is none.
        """
        if needs.gpus and not self.hardware.gpus:
            raise UserError("device = 'cuda': no GPU is visible on this machine; use --device cpu.")
        running = [worker.task.needs for worker in self.team if worker and worker.task]
        if not running:
            return True
        cores = max(self.hardware.cores, self.workers)
        return (
            self._slot(needs) is not None
            and sum(other.cpus for other in running) + needs.cpus <= cores + ROUNDING
            and sum(other.memory_mb for other in running) + needs.memory_mb <= self.hardware.memory_mb
        )

    def submit(self, task: Task) -> None:
        """Give a task to a worker that is free, which is started where there is none yet."""
        slot = self._slot(task.needs)
        assert slot is not None, "submit only what fits"
        worker = self.team[slot] or self._start(slot)
        self.team[slot] = worker
        worker.task = task
        with suppress(OSError):  # it has just died, as its sentinel will tell
            worker.pipe.send(task)

    def wait(self, take: Send, seconds: float | None) -> None:
        """Hand on what workers have said, and which of them have died."""
        team = [worker for worker in self.team if worker]
        if not team:
            time.sleep(seconds or 0.0)
            return
        told = wait([*(worker.pipe for worker in team), *(worker.process.sentinel for worker in team)], seconds)
        for worker in team:
            if worker.pipe in told or worker.process.sentinel in told:
                self._listen(worker, take)

    def _listen(self, worker: _Worker, take: Send) -> None:
        while message := self._next(worker):
            worker.ready = self.proved = True
            if message.kind in ("finished", "failed", "busy"):
                worker.task = None
            if message.key:
                take(message)
        if worker.process.exitcode is not None or worker.pipe.closed:
            self._bury(worker, take)

    def _next(self, worker: _Worker) -> Message | None:
        """The next message that is there; a pipe that breaks off, as it does in many ways, is closed."""
        try:
            message: Message | None = worker.pipe.recv() if worker.pipe.poll() else None
        except Exception:
            worker.pipe.close()
            return None
        return message

    def _bury(self, worker: _Worker, take: Send) -> None:
        """Strike out a dead worker; its task is lost, its place free."""
        worker.process.kill()
        worker.process.join()
        worker.process.close()
        worker.pipe.close()
        self.team[self.team.index(worker)] = None
        if not worker.ready and not self.proved:
            raise UserError(
                f"workers = {self.workers}: they could not start; call run() under "
                "`if __name__ == '__main__':`, or set workers = 1."
            )
        if worker.task:
            take(Message("lost", worker.task.key))

    def _slot(self, needs: Needs) -> int | None:
        """A place for a task: that of a worker at rest, else an empty one; where its GPU has room."""
        free = [slot for slot, worker in enumerate(self.team) if worker is None or worker.task is None]
        places = [slot for slot in free if not needs.gpus or self._used(self._gpu(slot)) + needs.gpus <= 1 + ROUNDING]
        return min(places, key=lambda slot: self.team[slot] is None, default=None)

    def _gpu(self, slot: int) -> str | None:
        gpus = self.hardware.gpus
        return gpus[slot % len(gpus)] if gpus else None

    def _used(self, gpu: str | None) -> float:
        team = ((self._gpu(slot), worker) for slot, worker in enumerate(self.team))
        return sum(worker.task.needs.gpus for of, worker in team if of == gpu and worker and worker.task)

    def _start(self, slot: int) -> _Worker:
        ours, theirs = self.context.Pipe()
        gpu = self._gpu(slot) if len(self.hardware.gpus) > 1 else None
        arguments = (theirs, self.lifeline, os.getpid(), self.store.uri)
        process = self.context.Process(target=_serve, args=arguments, daemon=True)
        with _environment(self.threads, gpu), _interrupts_held():
            process.start()
        theirs.close()
        return _Worker(process, ours, gpu)


@contextmanager
def _environment(threads: int, gpu: str | None) -> Iterator[None]:
    """What a worker that starts in this block finds: its threads, where the user has not set them, and its GPU.

    It inherits it, so that it is there before anything imports torch.
    """
    wanted: Mapping[str, str] = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    changed = {name: value for name, value in wanted.items() if name not in os.environ}
    if gpu is not None:
        changed["CUDA_VISIBLE_DEVICES"] = gpu
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while a worker is spawned: it inherits the mask, so that the driver alone answers, and later.

    The mask is this thread's. Where another takes the signal (one keeps a lease), Python still interrupts this one:
    hence the handler.
    """
    if sys.platform == "win32":
        yield
        return
    told: list[int] = []
    alone = threading.current_thread() is threading.main_thread()  # only it may set a handler, or is interrupted
    handler = signal.signal(signal.SIGINT, lambda number, frame: told.append(number)) if alone else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if alone:
            signal.signal(signal.SIGINT, handler)
        if told:
            signal.raise_signal(signal.SIGINT)


def _serve(pipe: Connection, lifeline: Connection, driver: int, uri: str) -> None:
    """The life of a worker: one task after another, until its driver hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(lifeline, driver), daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(Message("started", ""))  # of no task: it says that the worker lives
        store = open_store(uri)  # one for all its tasks: it remembers what it has verified
        while True:
            pipe.send(perform(pipe.recv(), store, pipe.send))


def _watch(lifeline: Connection, driver: int) -> None:
    """End this process when the driver hangs up or is gone, whatever the stage is doing."""
    # A process that the driver has forked may keep the pipe open after its death: hence the second question.
    while os.getppid() == driver and not lifeline.poll(0.5):
        pass
    os._exit(1)
