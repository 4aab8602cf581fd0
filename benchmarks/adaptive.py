"""Protections that know the red team: ``python benchmarks/adaptive.py`` prints the table of docs/adaptive.md.

Rows: nothing, the plain protection, and the same made adaptive to CodeSR, to CDL, and to both. Columns: what each red
team is left with (identity, "no face" counted as 0): none, CodeSR, CDL, both. Lower is better protected. Then the
expected score of a red team that meets an adaptive protector every second time, and the signs of masked gradients
(docs/red-flags.md), for which the plain protection also runs with half its steps and with half its budget. Resumable:
the same command goes on where it was killed.
"""

from __future__ import annotations

import json
from typing import Any

from redcloak import registry
from redcloak.api import Flag
from redcloak.arms import Arm, Builder
from redcloak.config import Choice
from redcloak.crafting import masking
from redcloak.report.table import Table
from redcloak.stats import Sample, cluster_bootstrap, expected
from sweep import Sweep, config, drawn, options, sweep

CODESR = (Choice(name="codesr"),)
ALONE = "no red team"
TEAMS: dict[str, tuple[tuple[Choice, ...], bool]] = {
    ALONE: ((), False), "CodeSR": (CODESR, False), "CDL": ((), True), "CodeSR + CDL": (CODESR, True),
}  # fmt: skip
ANSWERS = {"adaptive to CodeSR": "CodeSR", "adaptive to CDL": "CDL", "adaptive to both": "CodeSR + CDL"}


def protections(base: str, more: dict[str, Any]) -> dict[str, Choice]:
    """Each row's protection."""

    def adaptive(through: bool, decoupling: bool) -> Choice:
        settings = {"base": {"name": base, "settings": more}, "decoupling": decoupling}
        return Choice(name="adaptive", settings=settings | {"through": [["codesr"]] if through else []})

    return {
        "none": Choice(name="none"),
        "plain": Choice(name=base, settings=more),
        "adaptive to CodeSR": adaptive(True, False),
        "adaptive to CDL": adaptive(False, True),
        "adaptive to both": adaptive(True, True),
    }


def halved(builder: Builder, base: str) -> dict[str, Choice]:
    """The plain protection with half its steps, and with half its budget."""
    settings = registry.load("protect", base).configure(**builder.suite.settings(base, {}))
    steps = next(name for name in ("rounds", "steps") if hasattr(settings, name))
    return {
        "half the steps": Choice(name=base, settings={steps: max(1, getattr(settings, steps) // 2)}),
        "half the budget": Choice(name=base, settings={"budget": builder.config.budget / 2}),
    }


def arms_of(builder: Builder, rows: dict[str, Choice], base: str) -> list[Arm]:
    """One arm for each protection and red team, and the two that get less of everything."""
    found = [
        builder.arm(f"{name} | {ALONE}", name, "", builder.protect(choice), protection=base)
        for name, choice in halved(builder, base).items()
    ]
    for name, choice in rows.items():
        node = builder.clean if choice.name == "none" else builder.protect(choice)
        protection = None if choice.name == "none" else choice.name
        for team, (chain, cdl) in TEAMS.items():
            found.append(builder.arm(f"{name} | {team}", name, "", node, chain, cdl, protection=protection))
    return found


def of(scores: Table, row: str, team: str) -> Sample:
    """The identity that a red team is left with."""
    return scores.sample(f"{row} | {team}", "identity_zero")


def flags(done: Sweep) -> list[Flag]:
    """What speaks for masked gradients: a blind ascent, or a plain protection that does better."""
    found: list[Flag | None] = []
    for group in done.arms.values():
        for arm in group:
            notes = done.read(arm.photos).manifest.notes if arm.photos else {}
            if message := masking.blind(notes.get("lens_gradient", 1.0)):
                found.append(Flag("gradient-vanishes", arm.summary.name, message))
    for row in ("half the steps", "half the budget"):
        less, more = of(done.scores, row, ALONE), of(done.scores, "plain", ALONE)
        found.append(masking.more_protects_less("plain", f"all beside {row}", less, more))
    for row, team in ANSWERS.items():
        plain, adaptive = of(done.scores, "plain", team), of(done.scores, row, team)
        found.append(masking.plain_beats_adaptive(row, plain, adaptive))
    return [flag for flag in found if flag]


def main() -> None:
    parser = options(__doc__, "out/adaptive", budget=16)
    parser.add_argument("--base", default="aspl", help="the protection to make adaptive")
    parser.add_argument("--chance", type=float, default=0.5, help="how often the protector adapts")
    args = parser.parse_args()
    rows = protections(args.base, {})
    configs = [config(photos, args, protection=Choice(name="none")) for photos in drawn(args)]
    done = sweep(configs, lambda builder: arms_of(builder, rows, args.base), args.out, args.workers)
    print(f"\n{args.subjects} subjects, {args.seeds} seeds, {args.base} at {args.budget:g}/255 on {args.suite}\n")
    print("| protection | " + " | ".join(TEAMS) + " |\n|---|" + "---|" * len(TEAMS))
    table = {}
    for row in rows:
        samples = {team: of(done.scores, row, team) for team in TEAMS}
        table[row] = {
            team: str(cluster_bootstrap(sample.values, sample.subjects, subclusters=sample.seeds))
            for team, sample in samples.items()
        }
        print(f"| {row} | " + " | ".join(table[row].values()) + " |")
    print(f"\nExpected identity where the protector adapts with probability {args.chance:g}:")
    for row, team in ANSWERS.items():
        value = expected(of(done.scores, row, team), of(done.scores, "plain", team), args.chance)
        print(f"{team}: {value}")
    for flag in (raised := flags(done)):
        print(f"flag {flag.anchor} ({flag.arm}): {flag.message}")
    found = {"table": table, "flags": [flag.message for flag in raised]}
    (args.out / "adaptive.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
