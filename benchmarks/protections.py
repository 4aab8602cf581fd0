"""Every protection and control at one budget: what it does to identity and quality, and what the red team leaves of it.

``python benchmarks/protections.py`` writes the table of docs/protections.md. Each row is a protection: the drop of each
score against clean photos, paired by subject and seed, with its interval; the same after CodeSR + CDL; and the seconds
of the protection itself. Resumable: the same command goes on where it was killed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence

from redcloak import registry
from redcloak.arms import Arm, Builder
from redcloak.config import Choice
from redcloak.report.table import Table
from redcloak.stats import paired_difference
from sweep import config, drawn, options, sweep

METRICS = ("identity_zero", "quality")
ELSEWHERE = ("none", "adaptive", "clip_only", "latents_only", "matched_noise", "realign")  # adaptive.py, and the study


def arms_of(builder: Builder, names: Sequence[str]) -> list[Arm]:
    """The clean arm, and two of each protection: as it is, and after the red team."""
    arms = [builder.arm("clean", "Clean", "", builder.clean)]
    for name in names:
        node = builder.protect(Choice(name=name))
        arms.append(builder.arm(name, name, "", node, protection=name))
        arms.append(builder.arm(f"{name}+cure", name, "", node, builder.config.red_team, True, protection=name))
    return arms


def main() -> None:
    parser = options(__doc__, "out/protections")
    parser.add_argument("names", nargs="*", help="by default every protection, and the controls")
    args = parser.parse_args()
    names = args.names or [name for name in registry.names("protect") if name not in ELSEWHERE]
    configs = [config(photos, args, protection=Choice(name="none")) for photos in drawn(args)]
    done = sweep(configs, lambda builder: arms_of(builder, names), args.out, args.workers)
    made = [arm for group in done.arms.values() for arm in group if arm.summary.name in names]
    seconds = {
        name: statistics.mean(
            done.read(arm.photos).manifest.wall_seconds for arm in made if arm.summary.name == name and arm.photos
        )
        for name in names
    }
    report(done.scores, names, seconds, args)


def report(scores: Table, names: Sequence[str], seconds: dict[str, float], args: argparse.Namespace) -> None:
    """Print the table, and write it beside the scores."""
    print(f"\n{args.subjects} subjects, {args.seeds} seeds, {args.budget:g}/255 on {args.suite}\n")
    heads = [f"{metric}{after}" for metric in METRICS for after in (" lost", " lost after CodeSR + CDL")]
    print("| protection | " + " | ".join(heads) + " | seconds |\n|---|" + "---|" * (len(heads) + 1))
    rows = []
    for name in names:
        cells = [
            str(paired_difference(scores.sample("clean", metric), scores.sample(arm, metric)))
            for metric in METRICS
            for arm in (name, f"{name}+cure")
        ]
        rows.append({"protection": name, **dict(zip(heads, cells, strict=True)), "seconds": round(seconds[name], 1)})
        print(f"| {name} | " + " | ".join(cells) + f" | {seconds[name]:.1f} |")
    (args.out / "protections.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
