"""Run a graph: in this process, or in spawned workers that are reused from stage to stage.

Only keys, configurations and the store's path travel to workers; results go through the store. Running the
same graph again resumes: what is in the store is never computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from redcloak.errors import UserError
from redcloak.matrix import Graph, Node
from redcloak.pool import run_in_pool
from redcloak.store import Store
from redcloak.work import Event, Message, StageError, Task, perform

__all__ = ["Event", "StageError", "run"]


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
        run_in_pool(missing, store, function, workers, on_event)


def _run_here(node: Node, store: Store, function: str, on_event: Callable[[Event], None]) -> None:
    def send(message: Message) -> None:
        kind, _, done, total, values = message
        on_event(Event(kind, node, done, total, values))

    try:
        seconds = perform(Task.of(node, function), store, send)
    except (UserError, StageError):
        on_event(Event("failed", node))
        raise
    on_event(Event("finished", node, seconds=seconds))
