"""Every purifier on the small suite, against two protections and on clean photos: ``python benchmarks/purifiers.py``.

Prints the tables of docs/purifiers.md (with ``--common-seeds``). Each row is a purifier (or a chain, written
``restore,upscale``): the identity that training on its output leaves, "no face" counted as 0, on photos protected by
ASPL and by AdvDM; and on clean ones, where a purifier can only take something away: what over-purification costs.
Resumable: the same command goes on where it was killed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence

from purify import runs_on
from redcloak import registry
from redcloak.arms import Arm, Builder
from redcloak.config import Choice
from redcloak.report.table import Table
from redcloak.stats import cluster_bootstrap, paired_difference
from sweep import Sweep, config, drawn, options, sweep

SOURCES = ("aspl", "advdm", "clean")
METRIC = "identity_zero"


def names_here(suite: str) -> list[str]:
    """Every purifier that runs with what this machine and the suite have."""
    return [name for name in registry.names("purify") if name != "none" and runs_on(name, suite)]


def arms_of(builder: Builder, purifiers: Sequence[str], sources: Sequence[str]) -> list[Arm]:
    """One arm for each source of photos and each purifier, and one without a purifier."""
    arms = []
    for source in sources:
        protected = source != "clean"
        node = builder.protect(Choice(name=source)) if protected else builder.clean
        by = source if protected else None
        arms.append(builder.arm(source, source, "", node, protection=by))
        for name in purifiers:
            chain = tuple(Choice(name=step) for step in name.split(","))
            arms.append(builder.arm(f"{source}+{name}", name, "", node, chain, protection=by))
    return arms


def seconds(done: Sweep, name: str) -> float:
    """The mean time of a purifier for a photo, over all photos it was run on."""
    nodes = [arm for group in done.arms.values() for arm in group if arm.summary.name.endswith(f"+{name}")]
    artifacts = [done.read(arm.trained_on) for arm in nodes if arm.trained_on]
    counts = [len(list((artifact.path / "images").glob("*.png"))) for artifact in artifacts]
    return statistics.mean(a.manifest.wall_seconds / count for a, count in zip(artifacts, counts, strict=True))


def report(done: Sweep, purifiers: Sequence[str], sources: Sequence[str], args: argparse.Namespace) -> None:
    """Print the table, and write it beside the scores."""
    print(f"\n{args.subjects} subjects, {args.seeds} seeds, {args.budget:g}/255 on {args.suite}\n")
    heads = [*sources, "taken from clean", "s a photo"]
    print("| purifier | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads))
    rows = {}
    for name in ("", *purifiers):
        rows[name or "none"] = cells = [_mean(done.scores, arm_name(source, name)) for source in sources]
        if name and "clean" in sources:
            clean, purified = (done.scores.sample(arm_name("clean", each), METRIC) for each in ("", name))
            cells += [str(paired_difference(clean, purified)), f"{seconds(done, name):.2f}"]
        print(f"| {name or 'none'} | " + " | ".join(cells + [""] * (len(heads) - len(cells))) + " |")
    (args.out / "purifiers.json").write_text(json.dumps({"heads": heads, "rows": rows}, indent=1) + "\n")


def arm_name(source: str, purifier: str) -> str:
    return f"{source}+{purifier}" if purifier else source


def _mean(scores: Table, arm: str) -> str:
    sample = scores.sample(arm, METRIC)
    return str(cluster_bootstrap(sample.values, sample.subjects, subclusters=sample.seeds))


def main() -> None:
    parser = options(__doc__, "out/purifiers")
    parser.add_argument("names", nargs="*", help="purifiers, or chains of them; by default all")
    parser.add_argument("--sources", nargs="*", default=list(SOURCES), help="protections, and clean")
    args = parser.parse_args()
    purifiers = args.names or names_here(args.suite)
    configs = [config(photos, args, protection=Choice(name="none")) for photos in drawn(args)]
    done = sweep(configs, lambda builder: arms_of(builder, purifiers, args.sources), args.out, args.workers)
    report(done, purifiers, args.sources, args)


if __name__ == "__main__":
    main()
