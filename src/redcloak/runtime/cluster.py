"""Tasks over a Ray cluster: actors that keep what they have loaded, placed and restarted by Ray where there is room.

An actor is a worker with the cores, GPUs and memory of the tasks it was made for; a task goes to one at rest that has
what it needs, else a new one is asked for. What a dead node takes with it is lost and starts anew. Only tasks (keys and
JSON) and the store's URI travel.

Ray needs no more than the extra ``ray``; its usage statistics are off.
"""

from __future__ import annotations

import math
import os
import socket
import time
from dataclasses import dataclass, field, replace
from typing import Any, Self

from redcloak.api import Needs
from redcloak.errors import UserError
from redcloak.runtime.refused import StoreError
from redcloak.runtime.work import Message, Send, Task, perform

POLL_SECONDS = 0.5  # between two looks at the progress of what runs
CAPACITY_SECONDS = 2.0  # for which the answer to "what has the cluster?" is taken to hold
CONNECT_SECONDS = 5.0
PLACE_SECONDS = 10.0  # for Ray to find an actor a place, before its task goes to another that is at rest
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is ever uploaded
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}


class Worker:
    """What runs in an actor: one task at a time, and beside it an ear for questions."""

    def __init__(self, uri: str, threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before anything imports torch
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from redcloak.runtime.places import open_store

        self.store, self.said = open_store(uri), Message("started", "")

    def perform(self, task: Task) -> Message:
        """Run a task; its last word."""
        return perform(task, self.store, self._hear)

    def heard(self) -> Message:
        """The last thing that the running task has said."""
        return self.said

    def _hear(self, message: Message) -> None:
        self.said = message


@dataclass
class _Actor:
    """An actor, what it was made with, and the task that it runs with the promise of its last word."""

    handle: Any
    needs: Needs
    task: Task | None = None
    promise: Any = None
    begun: bool = False
    asked: Any = None
    alive: bool = False
    since: float = field(default_factory=time.monotonic)


class Cluster:
    """An executor over Ray: ``address`` of a cluster (``auto``: that of this machine), or none for one of our own.

    Our own has ``workers`` cores. With ``threads`` a task gets as many cores.
    """

    def __init__(self, uri: str, address: str = "", workers: int = 1, threads: int | None = None) -> None:
        self.uri, self.address, self.workers, self.threads = uri, address, workers, threads
        self.actors: list[_Actor] = []
        self.known: tuple[float, list[dict[str, float]]] = (-math.inf, [])
        self.gpus = 0.0  # the most that any node was seen to have
        self.looked = time.monotonic()

    def __enter__(self) -> Self:
        self.ray = _ray()
        self.ours = not self.ray.is_initialized()
        if self.ours:
            self._connect()
        self.make = self.ray.remote(Worker)
        return self

    def __exit__(self, *error: object) -> None:
        for actor in self.actors:
            self.ray.kill(actor.handle)
        if self.ours:
            self.ray.shutdown()

    def _connect(self) -> None:
        _check_reachable(self.address)
        quiet = {"logging_level": "ERROR", "log_to_driver": False}
        own = {"num_cpus": self.workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        try:
            self.ray.init(**({"address": self.address} if self.address else own), **quiet)
        except Exception as error:
            place = f"ray:{self.address}" if self.address else "ray"
            raise UserError(f"executor = {place!r}: {error}; see docs/cluster.md.") from error

    def fits(self, needs: Needs) -> bool:
        """Whether there is an actor at rest, or room for a new one.

        Raises:
            UserError: no node that was ever seen has the GPUs; one that is gone may come back, and is waited for.
        """
        needs = self._shape(needs)
        return self._at_rest(needs) is not None or self._room(needs) is not None

    def submit(self, task: Task) -> None:
        """Give a task to an actor at rest, or to a new one."""
        needs = self._shape(task.needs)
        actor = self._at_rest(needs)
        if actor is None:
            for idle in self._room(needs) or []:
                self._dismiss(idle)
            actor = self._hire(needs)
        self._give(actor, task)

    def _give(self, actor: _Actor, task: Task) -> None:
        actor.task, actor.begun, actor.promise = task, False, actor.handle.perform.remote(task)

    def wait(self, take: Send, seconds: float | None) -> None:
        """Hand on last words, losses, and now and then the progress of what runs."""
        running = {actor.promise: actor for actor in self.actors if actor.task}
        if not running:
            time.sleep(seconds or 0.0)
            return
        patience = POLL_SECONDS if seconds is None else min(seconds, POLL_SECONDS)
        told, left = self.ray.wait(list(running), num_returns=1, timeout=patience)
        told += self.ray.wait(left, num_returns=len(left), timeout=0)[0] if told and left else []
        for promise in told:
            self._finish(running[promise], take)
        if time.monotonic() - self.looked > POLL_SECONDS:
            self.looked = time.monotonic()
            for actor in list(self.actors):
                if actor.task:
                    self._ask(actor, take)
                    self._rehouse(actor)

    def _finish(self, actor: _Actor, take: Send) -> None:
        task, actor.task = actor.task, None
        assert task is not None
        try:
            message: Message = self.ray.get(actor.promise)
            actor.alive = True
        except self.ray.exceptions.ActorDiedError as error:
            self.actors.remove(actor)
            self.known = (-math.inf, [])  # its node may have died with it
            if "StoreError" in str(error):  # from its beginning, when it opened the store
                raise StoreError(f"store {self.uri}: a worker cannot use it; all nodes must reach it.") from error
            message = Message("lost", task.key)
        except self.ray.exceptions.RayError:
            self._dismiss(actor)
            message = Message("lost", task.key)
        if message.kind == "finished" and not actor.begun:
            take(Message("started", task.key))
        take(message)

    def _ask(self, actor: _Actor, take: Send) -> None:
        """Hand on what the task has said, and ask again; an actor that does not answer is not waited for."""
        assert actor.task is not None
        if actor.asked is None:
            actor.asked = actor.handle.heard.remote()
        elif self.ray.wait([actor.asked], timeout=0)[0]:
            try:
                message: Message = self.ray.get(actor.asked)
            except self.ray.exceptions.RayError:  # its loss is told by its promise
                return
            actor.asked, actor.alive = None, True
            if message.key == actor.task.key:
                if not actor.begun:
                    take(Message("started", message.key))
                actor.begun = True
                if message.kind == "progress":
                    take(message)

    def _rehouse(self, actor: _Actor) -> None:
        """Give the task of an actor that finds no place to one that is at rest, or made for the nodes of now.

        Nodes die, and nodes come to a cluster that had none.
        """
        if actor.alive or actor.task is None or time.monotonic() - actor.since <= PLACE_SECONDS:
            return
        needs = self._shape(actor.task.needs)
        idle = self._at_rest(needs)
        if idle or needs != actor.needs:
            self._dismiss(actor)
            self._give(idle or self._hire(needs), actor.task)

    def _shape(self, needs: Needs) -> Needs:
        """The needs as an actor is made for them: few shapes, so that actors are reused, and none that has no place."""
        nodes = self._nodes()
        self.gpus = max([self.gpus, *(node.get("GPU", 0.0) for node in nodes)])
        if needs.gpus > self.gpus:
            raise UserError(f"executor = 'ray:{self.address}': no node of the cluster has {needs.gpus:g} GPU.")
        cpus = max(needs.cpus, float(self.threads or 0))
        workers = [node for node in nodes if node.get("CPU")]  # the head may have no cores, and tells nothing then
        if not workers:
            return Needs(cpus, needs.gpus)
        memory = 1024 * 2.0 ** math.ceil(math.log2(needs.memory_mb / 1024)) if needs.memory_mb > 1024 else 0.0
        room = math.floor(max(node.get("memory", 0.0) for node in workers) / 2**20)
        return Needs(min(cpus, max(node["CPU"] for node in workers)), needs.gpus, min(memory, room))

    def _at_rest(self, needs: Needs) -> _Actor | None:
        able = [actor for actor in self.actors if actor.task is None and _covers(actor.needs, needs)]
        return min(able, key=lambda actor: (actor.needs.gpus, actor.needs.cpus, actor.needs.memory_mb), default=None)

    def _room(self, needs: Needs) -> list[_Actor] | None:
        """The actors at rest that must go for a new one to have room; None where not even that helps.

        Where nothing runs there is always room: Ray has the actor wait for a node, and a cluster that grows adds one.
        """
        going: list[_Actor] = []
        idle = [actor for actor in self.actors if actor.task is None]
        nothing_runs = len(idle) == len(self.actors)
        while not self._fits_beside(needs, going):
            if not idle:
                return going if nothing_runs else None
            going.append(idle.pop(0))
        return going

    def _fits_beside(self, needs: Needs, going: list[_Actor]) -> bool:
        nodes, staying = self._nodes(), [actor.needs for actor in self.actors if actor not in going]
        free = (
            sum(node.get("CPU", 0.0) for node in nodes) - sum(held.cpus for held in staying),
            sum(node.get("GPU", 0.0) for node in nodes) - sum(held.gpus for held in staying),
            sum(node.get("memory", 0.0) for node in nodes) / 2**20 - sum(held.memory_mb for held in staying),
        )
        wanted = (needs.cpus, needs.gpus, needs.memory_mb)
        return all(have + 1e-9 >= want for have, want in zip(free, wanted, strict=True))

    def _nodes(self) -> list[dict[str, float]]:
        """What each living node has; asked for now and then, since nodes come and go."""
        then, nodes = self.known
        if time.monotonic() - then > CAPACITY_SECONDS:
            nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            self.known = (time.monotonic(), nodes)
        return nodes

    def _hire(self, needs: Needs) -> _Actor:
        threads = self.threads or max(1, int(needs.cpus))
        asked = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "memory": int(needs.memory_mb * 2**20) or None}
        # Beside the task, a second thread answers what it has said last.
        handle = self.make.options(**asked, max_concurrency=2).remote(self.uri, threads)
        self.actors.append(_Actor(handle, needs))
        return self.actors[-1]

    def _dismiss(self, actor: _Actor) -> None:
        self.ray.kill(actor.handle)
        self.actors.remove(actor)


def _covers(has: Needs, needs: Needs) -> bool:
    return has == replace(
        has,
        cpus=max(has.cpus, needs.cpus),
        gpus=max(has.gpus, needs.gpus),
        memory_mb=max(has.memory_mb, needs.memory_mb),
    )


def _ray() -> Any:
    """Ray, where it is installed."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UserError("executor = 'ray': Ray is not installed; pip install 'redcloak[ray]'.") from None
    return ray


def _check_reachable(address: str) -> None:
    """Find out in seconds whether anybody listens; Ray itself takes minutes to give up."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not address or address == "auto":
        return
    if not colon or not port.isdigit():
        raise UserError(f"executor = 'ray:{address}': not an address; write it as ray:HOST:PORT, or ray:auto.")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"executor = 'ray:{address}': nobody answers there ({error}); is the cluster up, and reachable from here?"
        ) from None
