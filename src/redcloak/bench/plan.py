"""What a run of a matrix would cost: stages, hours, memory and disk, from what the store has measured.

An estimate is taken of the nearest thing that was measured: the same stage with the same settings, else with the same
methods and models. Else it is a guess, which is said: by the same stage with whatever methods and models, or a prior.
"""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from redcloak.arms import PRIORS
from redcloak.bench.grid import Matrix
from redcloak.hardware import memory_mb
from redcloak.manifest import Manifest, key_of
from redcloak.matrix import Node, Plan, Row, kin_of, longest_paths
from redcloak.needs import backbone_bytes
from redcloak.store import Store
from redcloak.suite import load

SAMPLE = 2000  # manifests that are read for the history; keys are hashes, so that the first are a fair sample
WEIGHED = 5  # artifacts of a kind whose files are weighed
MODEL = 2**20 * 14  # bytes of a model of the small suite
BYTES = {"photos": 60_000, "class_images": 350_000, "protect": 70_000, "purify": 60_000, "generate": 160_000}
SMALL = 8_000  # bytes of anything else
Source = Literal["measured", "prior", "unknown"]
Groups = tuple[str, str, str]


@dataclass(frozen=True)
class StageRow(Row):
    """A row of the plan: also the nodes that failed last time, the highest memory in MiB, and the bytes to come."""

    failed: int = 0
    memory_mb: float | None = None
    bytes: int = 0


@dataclass(frozen=True)
class MatrixPlan(Plan):
    """What a run would do; memory in MiB for all workers together, disk in bytes."""

    rows: tuple[StageRow, ...]
    name: str
    arms: int
    memory_mb: float | None
    memory_there_mb: float | None
    disk: int
    disk_free: int

    @property
    def missing(self) -> int:
        """The nodes that would run."""
        return sum(row.missing for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The plan in JSON types; hours of work and of waiting stand beside the seconds."""
        rows = [{**asdict(row), "seconds": row.seconds} for row in self.rows]
        return {**asdict(self), "rows": rows, "hours": self.seconds / 3600, "elapsed_hours": self.elapsed / 3600}


@dataclass
class Past:
    """What was measured of one group of artifacts."""

    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)


class History:
    """The past of a store, by three ever wider groups of artifacts."""

    def __init__(self, store: Store | None) -> None:
        self.groups: dict[str, Past] = {}
        for manifest in islice(store.manifests(), SAMPLE) if store else ():
            self._learn(manifest, store)

    def _learn(self, manifest: Manifest, store: Store | None) -> None:
        for group in groups_of(manifest.stage, manifest.config):
            past = self.groups.setdefault(group, Past())
            past.seconds.append(manifest.wall_seconds)
            if manifest.peak_memory_mb:
                past.memory.append(manifest.peak_memory_mb)
            if store and len(past.bytes) < WEIGHED:
                past.bytes.append(store.size(manifest.key))

    def find(self, groups: Groups) -> tuple[Past, Source] | None:
        """The past of the narrowest group that has one, and whether it may be called measured."""
        sources: tuple[Source, ...] = ("measured", "measured", "prior")
        found = zip(groups, sources, strict=True)
        return next(((self.groups[group], source) for group, source in found if group in self.groups), None)


@dataclass(frozen=True)
class Guess:
    """What one node is expected to take."""

    seconds: float | None
    source: Source
    memory_mb: float | None
    bytes: int


def groups_of(stage: str, config: Mapping[str, Any]) -> Groups:
    """The same settings, the same methods and models, the same stage; seeds and subjects do not matter."""
    rest = {name: value for name, value in config.items() if name not in ("seed", "subject", "digest", "names")}
    methods = [config["method"]] if "method" in config else [*config.get("chain", ()), *config.get("metrics", ())]
    names = "+".join(str(method["name"]) for method in methods)
    return f"{stage} {key_of(rest)}", f"{' '.join(kin_of(stage, config))}: {names}", stage


def plan(
    matrix: Matrix,
    store: Store | None,
    workers: int,
    beside: Path,
    targets: Sequence[Node] | None = None,
    anew: bool = False,
) -> MatrixPlan:
    """What a run of ``matrix`` for ``targets`` (all) would do; with ``anew`` as if nothing of it were there.

    ``beside`` is where its disk would be, ``store`` None where there is none.
    """
    targets = matrix.targets() if targets is None else targets
    nodes, _ = matrix.graph.split(lambda _: None, targets)
    keys = store.keys() if store and not anew else frozenset()
    missing, _ = matrix.graph.split(lambda key: key if key in keys else None, targets)
    failed = {each.key for each in store.failures.all()} if store else set()
    guess = _guesses(History(store if missing else None), matrix)
    rows = _rows(nodes, missing, failed, guess)
    work = sum(row.seconds for row in rows)
    longest = max(longest_paths(missing, lambda node: guess(node).seconds or 0.0).values(), default=0.0)
    peaks = [row.memory_mb for row in rows if row.missing and row.memory_mb]
    return MatrixPlan(
        rows,
        work,
        max(longest, work / workers),
        workers,
        name=matrix.config.name,
        arms=len(matrix.arms),
        memory_mb=max(peaks) * workers if peaks else None,
        memory_there_mb=there if math.isfinite(there := memory_mb()) else None,
        disk=sum(row.bytes for row in rows),
        disk_free=shutil.disk_usage(_nearest(beside)).free,
    )


def _guesses(history: History, matrix: Matrix) -> Callable[[Node], Guess]:
    """An estimate for a node, worked out once for all nodes of one configuration."""
    known: dict[int, Guess] = {}
    model = backbone_bytes(load(matrix.config.suite)) or MODEL

    def guess(node: Node) -> Guess:
        if (found := known.get(id(node.config))) is None:
            found = known[id(node.config)] = _guess(node, history, model)
        return found

    return guess


def _guess(node: Node, history: History, model: int) -> Guess:
    found = history.find(groups_of(node.stage, node.config))
    stated = node.needs.memory_mb or None
    if found is None:
        prior = PRIORS.get(node.stage)
        size = model if node.stage == "personalize" else BYTES.get(node.stage, SMALL)
        return Guess(prior, "prior" if prior is not None else "unknown", stated, size)
    past, source = found
    memory = max(past.memory) if past.memory and source == "measured" else stated
    return Guess(statistics.median(past.seconds), source, memory, round(statistics.mean(past.bytes)))


def _rows(
    nodes: Iterable[Node], missing: Iterable[Node], failed: set[str], guess: Callable[[Node], Guess]
) -> tuple[StageRow, ...]:
    total: dict[str, int] = {}
    for node in nodes:
        total[node.stage] = total.get(node.stage, 0) + 1
    work: dict[str, list[tuple[Guess, bool]]] = {stage: [] for stage in total}
    for node in missing:
        work[node.stage].append((guess(node), node.key in failed))
    order = {stage: place for place, stage in enumerate(PRIORS)}
    chain = sorted(work, key=lambda stage: order.get(stage, len(order)))
    return tuple(_row(stage, total[stage], work[stage]) for stage in chain)


def _row(stage: str, total: int, work: list[tuple[Guess, bool]]) -> StageRow:
    guesses = [guess for guess, _ in work]
    seconds = [guess.seconds for guess in guesses if guess.seconds is not None]
    sources = {guess.source for guess in guesses}
    order: tuple[Source, ...] = ("unknown", "prior", "measured")  # the least certain is said
    return StageRow(
        stage,
        total,
        total - len(work),
        len(work),
        statistics.mean(seconds) if seconds else None,
        next((source for source in order if source in sources), "measured"),
        failed=sum(before for _, before in work),
        memory_mb=max((guess.memory_mb for guess in guesses if guess.memory_mb), default=None),
        bytes=sum(guess.bytes for guess in guesses),
    )


def _nearest(path: Path) -> Path:
    """The nearest folder that exists."""
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())
