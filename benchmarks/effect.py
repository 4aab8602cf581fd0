"""Do the paper's claims hold on the small suite? ``python benchmarks/effect.py`` writes the table of the README.

Personalizes on clean, noisy, protected, purified and decoupled photos of several drawn subjects, over seeds, and prints
identity and quality with intervals clustered by subject, and the paired differences that the claims speak of:

1. random noise of the same budget is harmless;
2. ASPL is not;
3. CodeSR + CDL recovers most of the gap, and more than any single purifier.

The people are none of those (100 to 105) that the small suite and the words of decoupling were chosen with. Resumable:
the same command goes on where it was killed.
"""

from __future__ import annotations

import json

from redcloak.api import Interval
from redcloak.arms import Arm, Builder
from redcloak.config import Choice
from redcloak.report.table import Table
from redcloak.stats import Sample, cluster_bootstrap, for_every_seed, paired_difference, recovered
from sweep import config, drawn, options, sweep

METRICS = ("identity_zero", "identity", "face_found", "quality")
PURIFIERS = ("gaussian", "jpeg", "codesr")
DECOUPLED = ("protected+cdl", "red_team", "red_team_paper")


def arms_of(builder: Builder, protection: str) -> list[Arm]:
    """The arms that the claims speak of: those of an audit, and decoupling without a purifier and in other words."""
    alone = builder.arm("protected+cdl", "+ CDL", "", builder.protected, cdl=True, protection=protection)
    paper = builder.but(decoupling=builder.config.decoupling.model_copy(update={"variant": "paper"}))
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
    parser = options(__doc__, "out/effect", subjects=12, first=200)
    parser.add_argument("--protection", default="aspl")
    args = parser.parse_args()
    purifiers = tuple((Choice(name=name),) for name in PURIFIERS)
    protection = Choice(name=args.protection)
    configs = [config(photos, args, protection=protection, purifiers=purifiers) for photos in drawn(args)]
    done = sweep(configs, lambda builder: arms_of(builder, args.protection), args.out, args.workers)
    rows, answers = table(done.scores, next(iter(done.arms.values()))), claims(done.scores)
    print(f"\n{args.subjects} subjects, {args.seeds} seeds, {args.protection} at {args.budget:g}/255 on {args.suite}\n")
    print("| arm | " + " | ".join(METRICS) + " |\n|---|" + "---|" * len(METRICS))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")
    print()
    for name, value in answers.items():
        print(f"{name}: {value}")
    (args.out / "effect.json").write_text(json.dumps({"table": rows, "claims": answers}, indent=1) + "\n")


if __name__ == "__main__":
    main()
