"""What the benchmarks over subjects share: their options, the run of all arms, and the table of scores."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from redcloak.arms import Arm, Builder
from redcloak.config import AuditConfig
from redcloak.nodes import STAGES
from redcloak.report.table import Table
from redcloak.runtime.execute import Event, run
from redcloak.runtime.matrix import Graph, Node
from redcloak.runtime.store import Artifact, Store
from redcloak.subjects import load_subject
from redcloak.suite import load


@dataclass(frozen=True)
class Sweep:
    """A finished run: the arms of each subject, the long table of scores, and the store they are read from."""

    arms: dict[str, list[Arm]]
    scores: Table
    store: Store

    def read(self, node: Node) -> Artifact:
        """The artifact of a node of the run."""
        return self.store.read(node.key, node.label)


def options(
    doc: str | None, out: str, *, subjects: int = 6, first: int = 100, seeds: int = 2, budget: float = 11
) -> argparse.ArgumentParser:
    """The options that all sweeps have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=subjects, help="drawn people (default %(default)s)")
    parser.add_argument("--first", type=int, default=first, help="the first one's number (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=seeds, help="trainings of each arm (default %(default)s)")
    parser.add_argument(
        "--common-seeds", action="store_true", help="a seed is the same noise for everybody, as in most tables of docs/"
    )
    parser.add_argument("--budget", type=float, default=budget, help="of 255 (default %(default)s)")
    parser.add_argument("--suite", default="tiny")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(out), help="where results are kept; the same resumes")
    return parser


def drawn(args: argparse.Namespace) -> list[str]:
    """The drawn people asked for."""
    return [f"drawn:{number}" for number in range(args.first, args.first + args.subjects)]


def config(photos: str, args: argparse.Namespace, **more: object) -> AuditConfig:
    """One subject's configuration under the common options."""
    common = {
        "suite": args.suite,
        "budget": args.budget,
        "seeds": tuple(range(args.seeds)),
        "common_seeds": args.common_seeds,
    }
    return AuditConfig(photos=photos, **(common | more))


def sweep(configs: list[AuditConfig], arms_of: Callable[[Builder], list[Arm]], out: Path, workers: int = 2) -> Sweep:
    """Run the arms of every configuration in one graph, telling what is finished, and write ``scores.parquet``."""
    suite, graph, console = load(configs[0].suite), Graph(), Console()
    arms = {
        each.photos: arms_of(Builder(each, suite, load_subject(each.photos, suite.spec.resolution), graph))
        for each in configs
    }
    store = Store(out / "store")
    targets = list(dict.fromkeys(node for group in arms.values() for arm in group for node in arm.targets))

    def follow(event: Event) -> None:
        if event.kind == "finished":
            console.print(f"{event.node.label} {event.seconds:.1f}s", highlight=False)

    run(graph, store, STAGES, targets, workers, follow)

    def read(node: Node) -> Artifact:
        return store.read(node.key, node.label)

    scores = Table.of(row for name, group in arms.items() for arm in group for row in arm.rows(name, read))
    scores.write(out / "scores.parquet")
    return Sweep(arms, scores, store)
