"""Run a graph although some of it fails: what does not need a failure is made, and why it failed is kept.

The store keeps one JSON file for each stage that failed, with its traceback, until the stage succeeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from redcloak.errors import UserError
from redcloak.execute import Event, StageError, run
from redcloak.matrix import Graph, Node
from redcloak.report.table import write_whole
from redcloak.store import Store

STAGES = "redcloak.stages:run_stage"


@dataclass(frozen=True)
class Failed:
    """A stage that failed: its key and label, why, its traceback where the user cannot mend it, and how often."""

    key: str
    stage: str
    label: str
    reason: str
    trace: str
    created: str
    attempts: int = 1


def failures(store: Store) -> Iterator[Failed]:
    """Every stage that failed and has not succeeded since, in the order of keys."""
    for path in sorted((store.root / "failures").glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            failed = Failed(**json.loads(path.read_bytes()))
            if not store.path(failed.key).exists():
                yield failed


def drive(
    graph: Graph,
    store: Store,
    targets: Iterable[Node],
    workers: int,
    on_event: Callable[[Event], None],
    function: str = STAGES,
) -> None:
    """Make ``targets`` but for those that need what fails.

    Raises:
        UserError: the store cannot be used.
    """
    rest, failed = list(targets), set[str]()
    while rest:
        broken: list[Node] = []

        def follow(event: Event, broken: list[Node] = broken) -> None:
            if event.kind == "failed":
                broken.append(event.node)
            elif event.kind == "finished":
                (store.root / "failures" / f"{event.node.key}.json").unlink(missing_ok=True)
            on_event(event)

        try:
            run(graph, store, function, rest, workers, follow)
        except (UserError, StageError) as error:
            if not broken or _fatal(error, store):
                raise
            for node in broken:
                _record(store, node, error)
            failed.update(node.key for node in broken)
            rest = _without(graph, rest, failed)
        else:
            return


def behind(graph: Graph, keys: Iterable[str]) -> set[str]:
    """These keys and those of every node that needs one of them."""
    found = set(keys)
    for node in graph.order():
        if any(key in found for key in node.input_keys.values()):
            found.add(node.key)
    return found


def _fatal(error: UserError | StageError, store: Store) -> bool:
    """Whether every other stage would fail alike: the disk is full or refuses, or workers cannot start."""
    return str(error).startswith(f"store {store.root}:") or "could not start" in str(error)


def _without(graph: Graph, targets: list[Node], failed: set[str]) -> list[Node]:
    lost = behind(graph, failed)
    return [node for node in targets if node.key not in lost]


def _record(store: Store, node: Node, error: UserError | StageError) -> None:
    folder = store.root / "failures"
    folder.mkdir(mode=0o700, exist_ok=True)
    before = next((each for each in failures(store) if each.key == node.key), None)
    failed = Failed(
        node.key,
        node.stage,
        node.label,
        error.reason if isinstance(error, StageError) else str(error),
        error.trace if isinstance(error, StageError) else "",
        datetime.now(UTC).isoformat(timespec="seconds"),
        before.attempts + 1 if before else 1,
    )
    write_whole(folder / f"{node.key}.json", json.dumps(asdict(failed), indent=1).encode())
