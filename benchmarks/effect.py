"""Do the paper's claims hold on the small suite? ``python benchmarks/effect.py`` writes the table of the README.

Personalizes on clean, noisy, protected, purified and decoupled photos of several drawn subjects, over seeds, and prints
identity and quality with intervals clustered by subject, and the paired differences that the claims speak of:

1. random noise of the same budget is harmless;
2. ASPL is not;
3. CodeSR + CDL recovers most of the gap, and more than any single purifier.

Resumable: the same command goes on where it was killed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from redcloak.api import Interval
from redcloak.arms import Arm, Builder
from redcloak.config import AuditConfig, Choice
from redcloak.execute import Event, run
from redcloak.matrix import Graph, Node
from redcloak.report.table import Table
from redcloak.stats import Sample, cluster_bootstrap, for_every_seed, paired_difference, recovered
from redcloak.store import Artifact, Store
from redcloak.subjects import Photos, load_subject
from redcloak.suite import load

METRICS = ("identity_zero", "identity", "face_found", "quality")
PURIFIERS = ("gaussian", "jpeg", "codesr")
DECOUPLED = ("protected+cdl", "red_team", "red_team_paper")


def arms_of(builder: Builder, photos: Photos, protection: str) -> list[Arm]:
    """The arms that the claims speak of: those of an audit, and decoupling without a purifier and in other words."""
    alone = builder.arm("protected+cdl", "+ CDL", "", builder.protected, cdl=True, protection=protection)
    words = {"decoupling": builder.config.decoupling.model_copy(update={"variant": "paper"})}
    paper = Builder(builder.config.model_copy(update=words), builder.suite, photos, builder.graph)
    cure, title = builder.config.red_team, "Red team in the paper's words"
    other = paper.arm("red_team_paper", title, "", paper.protected, cure, True, protection)
    return [*builder.arms(), alone, other]


def table(scores: Table, arms: list[Arm]) -> list[dict[str, str]]:
    rows = []
    for arm in arms:
        row = {"arm": arm.summary.title}
        for metric in METRICS:
            sample = scores.sample(arm.summary.name, metric)
            row[metric] = str(cluster_bootstrap(sample.values, sample.subjects, subclusters=sample.seeds))
        rows.append(row)
    return rows


def claims(scores: Table) -> dict[str, str]:
    """The paired differences behind each claim, on identity with "no face" counted as 0, and on quality."""

    def of(arm: str, metric: str = "identity_zero") -> Sample:
        return scores.sample(arm, metric)

    def minus(a: str, b: str, metric: str = "identity_zero") -> Interval:
        return paired_difference(of(a, metric), of(b, metric))

    untuned = for_every_seed(of("untuned"), of("clean"))
    found = {"clean - untuned (was anything learned?)": str(paired_difference(of("clean"), untuned))}
    for metric in ("identity_zero", "quality"):
        found[f"clean - random noise, {metric}"] = str(minus("clean", "random_noise", metric))
        found[f"clean - ASPL, {metric}"] = str(minus("clean", "protected", metric))
        for name in (*(f"protected+{purifier}" for purifier in PURIFIERS), *DECOUPLED):
            share = recovered(of("protected", metric), of(name, metric), of("clean", metric))
            found[f"share of the gap that {name} recovers, {metric}"] = str(share)
        for purifier in PURIFIERS:
            found[f"red team - {purifier}, {metric}"] = str(minus("red_team", f"protected+{purifier}", metric))
        found[f"clean - clean + red team, {metric}"] = str(minus("clean", "clean+red_team", metric))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--first", type=int, default=100, help="number of the first drawn subject")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--budget", type=float, default=11)
    parser.add_argument("--protection", default="aspl")
    parser.add_argument("--suite", default="tiny")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/effect"))
    args = parser.parse_args()
    suite, graph, console = load(args.suite), Graph(), Console()
    arms: dict[str, list[Arm]] = {}
    for number in range(args.first, args.first + args.subjects):
        config = AuditConfig(
            photos=f"drawn:{number}", suite=args.suite, budget=args.budget, protection=Choice(name=args.protection),
            purifiers=tuple((Choice(name=name),) for name in PURIFIERS), seeds=tuple(range(args.seeds)),
        )  # fmt: skip
        photos = load_subject(config.photos, suite.spec.resolution)
        arms[config.photos] = arms_of(Builder(config, suite, photos, graph), photos, args.protection)
    store = Store(args.out / "store")
    targets = list(dict.fromkeys(node for row in arms.values() for arm in row for node in arm.targets))

    def follow(event: Event) -> None:
        if event.kind == "finished":
            console.print(f"{event.node.label} {event.seconds:.1f}s", highlight=False)

    run(graph, store, "redcloak.stages:run_stage", targets, args.workers, follow)

    def read(node: Node) -> Artifact:
        found = store.open(node.key)
        assert found is not None, node.label
        return found

    scores = Table.of(row for name, group in arms.items() for arm in group for row in arm.rows(name, read))
    scores.write(args.out / "scores.parquet")
    rows, answers = table(scores, next(iter(arms.values()))), claims(scores)
    print(f"\n{args.subjects} subjects, {args.seeds} seeds, {args.protection} at {args.budget:g}/255 on {suite.name}\n")
    print("| arm | " + " | ".join(METRICS) + " |\n|---|" + "---|" * len(METRICS))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")
    print()
    for name, value in answers.items():
        print(f"{name}: {value}")
    (args.out / "effect.json").write_text(json.dumps({"table": rows, "claims": answers}, indent=1) + "\n")


if __name__ == "__main__":
    main()
