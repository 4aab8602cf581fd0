"""What a run of a graph would cost: stages, hours, memory and disk, from what the store has measured.

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

from redcloak.runtime.hardware import memory_mb
from redcloak.runtime.manifest import Manifest, key_of
from redcloak.runtime.matrix import Graph, Node, kin_of, longest_paths
from redcloak.runtime.store import Store

PRIORS = {
    "photos": 0.5,
    "class_images": 8.0,
    "protect": 40.0,
    "purify": 1.0,
    "personalize": 30.0,
    "generate": 6.0,
    "score": 2.0,
    "swap": 1.0,
}
SAMPLE = 2000  # manifests that are read for the history; keys are hashes, so that the first are a fair sample
WEIGHED = 5  # artifacts of a kind whose files are weighed
MODEL = 2**20 * 14  # bytes of a model of the small suite
BYTES = {"photos": 60_000, "class_images": 350_000, "protect": 70_000, "purify": 60_000, "generate": 160_000}
SMALL = 8_000  # bytes of anything else
Source = Literal["measured", "prior", "unknown"]
Groups = tuple[str, str, str]


@dataclass(frozen=True)
class Row:
    """What a plan says of one stage: ``total`` nodes, of which ``missing`` must run and ``cached`` need not.

    Of the missing ones: the mean of the seconds expected and, as ``source`` tells, the least certain ground for them
    (nothing at all is ``unknown``); how many failed last time; the highest memory in MiB; and the bytes to come.
    """

    stage: str
    total: int
    cached: int
    missing: int
    seconds_each: float | None
    source: Source
    failed: int = 0
    memory_mb: float | None = None
    bytes: int = 0

    @property
    def seconds(self) -> float:
        """The expected seconds of all missing nodes, one after another; 0 where nothing is known."""
        return self.missing * (self.seconds_each or 0.0)


@dataclass(frozen=True)
class Plan:
    """What a run would do. ``seconds`` is the work; ``elapsed`` the least time it takes ``workers`` workers.

    The times leave out the stages of which nothing is known. Memory is in MiB for all workers together, disk in bytes.
    """

    rows: tuple[Row, ...]
    seconds: float
    elapsed: float
    workers: int
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
    """What was measured of one group of artifacts, of which some are kept to be weighed."""

    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Guess:
    """What one node is expected to take, and the past that says so."""

    seconds: float | None
    source: Source
    memory_mb: float | None
    past: Past | None = None


class History:
    """The past of a store, by three ever wider groups of artifacts."""

    def __init__(self, store: Store | None) -> None:
        self.groups: dict[str, Past] = {}
        for manifest in islice(store.manifests(), SAMPLE) if store else ():
            self._learn(manifest)

    def _learn(self, manifest: Manifest) -> None:
        for group in groups_of(manifest.stage, manifest.config):
            past = self.groups.setdefault(group, Past())
            past.seconds.append(manifest.wall_seconds)
            if manifest.peak_memory_mb:
                past.memory.append(manifest.peak_memory_mb)
            if len(past.keys) < WEIGHED:
                past.keys.append(manifest.key)

    def find(self, groups: Groups) -> tuple[Past, Source] | None:
        """The past of the narrowest group that has one, and whether it may be called measured."""
        sources: tuple[Source, ...] = ("measured", "measured", "prior")
        found = zip(groups, sources, strict=True)
        return next(((self.groups[group], source) for group, source in found if group in self.groups), None)

    def guess(self, node: Node) -> Guess:
        """The median time and the greatest memory of the nearest past; the memory is else what the node states."""
        stated = node.needs.memory_mb or None
        if (found := self.find(groups_of(node.stage, node.config))) is None:
            prior = PRIORS.get(node.stage)
            return Guess(prior, "prior" if prior is not None else "unknown", stated)
        past, source = found
        memory = max(past.memory) if past.memory and source == "measured" else stated
        return Guess(statistics.median(past.seconds), source, memory, past)

    def guesses(self) -> Callable[[Node], Guess]:
        """:meth:`guess`, worked out once for all nodes of one configuration; for as long as their graph lives."""
        known: dict[int, Guess] = {}

        def guess(node: Node) -> Guess:
            if (found := known.get(id(node.config))) is None:
                found = known[id(node.config)] = self.guess(node)
            return found

        return guess


def groups_of(stage: str, config: Mapping[str, Any]) -> Groups:
    """The same settings, the same methods and models, the same stage; seeds and subjects do not matter."""
    rest = {name: value for name, value in config.items() if name not in ("seed", "subject", "digest", "names")}
    methods = [config["method"]] if "method" in config else [*config.get("chain", ()), *config.get("metrics", ())]
    names = "+".join(str(method["name"]) for method in methods)
    return f"{stage} {key_of(rest)}", f"{' '.join(kin_of(stage, config))}: {names}", stage


def plan(
    graph: Graph,
    store: Store | None,
    workers: int,
    beside: Path,
    targets: Sequence[Node] | None = None,
    anew: bool = False,
    model: int = 0,
) -> Plan:
    """What a run of ``graph`` for ``targets`` (the sinks) would do; with ``anew`` as if nothing of it were there.

    ``beside`` is where its disk would be, ``store`` None where there is none, ``model`` the bytes of a trained model
    (0: as of the small suite).
    """
    nodes, _ = graph.split(lambda _: None, targets)
    keys = store.keys() if store and not anew else frozenset()
    missing, _ = graph.split(lambda key: key if key in keys else None, targets)
    failed = {each.key for each in store.failures.all()} if store else set()
    guess = History(store if missing else None).guesses()
    rows = _rows(nodes, missing, failed, guess, _weights(store, model or MODEL))
    work = sum(row.seconds for row in rows)
    longest = max(longest_paths(missing, lambda node: guess(node).seconds or 0.0).values(), default=0.0)
    peaks = [row.memory_mb for row in rows if row.missing and row.memory_mb]
    return Plan(
        rows,
        work,
        max(longest, work / workers),
        workers,
        memory_mb=max(peaks) * workers if peaks else None,
        memory_there_mb=there if math.isfinite(there := memory_mb()) else None,
        disk=sum(row.bytes for row in rows),
        disk_free=shutil.disk_usage(_nearest(beside)).free,
    )


def _weights(store: Store | None, model: int) -> Callable[[str, Guess], int]:
    """The bytes of an artifact of a stage: those of its past, each past weighed once."""
    known: dict[int, int] = {}

    def weight(stage: str, guess: Guess) -> int:
        if store is None or guess.past is None:
            return model if stage == "personalize" else BYTES.get(stage, SMALL)
        if (found := known.get(id(guess.past))) is None:
            found = known[id(guess.past)] = round(statistics.mean(map(store.size, guess.past.keys)))
        return found

    return weight


def _rows(
    nodes: Iterable[Node],
    missing: Iterable[Node],
    failed: set[str],
    guess: Callable[[Node], Guess],
    weight: Callable[[str, Guess], int],
) -> tuple[Row, ...]:
    total: dict[str, int] = {}
    for node in nodes:
        total[node.stage] = total.get(node.stage, 0) + 1
    work: dict[str, list[tuple[Guess, bool]]] = {stage: [] for stage in total}
    for node in missing:
        work[node.stage].append((guess(node), node.key in failed))
    order = {stage: place for place, stage in enumerate(PRIORS)}
    chain = sorted(work, key=lambda stage: order.get(stage, len(order)))
    return tuple(_row(stage, total[stage], work[stage], weight) for stage in chain)


def _row(stage: str, total: int, work: list[tuple[Guess, bool]], weight: Callable[[str, Guess], int]) -> Row:
    guesses = [guess for guess, _ in work]
    seconds = [guess.seconds for guess in guesses if guess.seconds is not None]
    sources = {guess.source for guess in guesses}
    order: tuple[Source, ...] = ("unknown", "prior", "measured")  # the least certain is said
    return Row(
        stage,
        total,
        total - len(work),
        len(work),
        statistics.mean(seconds) if seconds else None,
        next((source for source in order if source in sources), "measured"),
        failed=sum(before for _, before in work),
        memory_mb=max((guess.memory_mb for guess in guesses if guess.memory_mb), default=None),
        bytes=sum(weight(stage, guess) for guess in guesses),
    )


def _nearest(path: Path) -> Path:
    """The nearest folder that exists."""
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())
