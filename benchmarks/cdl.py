"""The factorial of contrastive decoupling: ``python benchmarks/cdl.py`` prints the tables of docs/cdl.md.

Three switches, on or off: the noise is *named* in the instance prompt, *denied* in the class prompt, denied when
*sampling* (with the negative prompt). Then the names: fixed text, or K new words that train, the same for all photos,
others for each, or one for each cluster of residuals. All on protected photos, on protected ones after CodeSR, and on
clean ones, where there is nothing to decouple. ``--purifiers``: every purifier that runs here, with and without CDL,
and what CDL adds to it.

Arms that differ only in sampling share their trainings. Identity counts "no face" as 0. Resumable: the same command
goes on where it was killed; ``--plan`` says what is left to run, ``--short`` cuts every loop, to prove that it runs.
The tables of the docs are with ``--common-seeds``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from purifiers import names_here
from redcloak.arms import Arm, Builder
from redcloak.config import AuditConfig, Choice
from redcloak.prompts import Decoupling
from redcloak.report.table import Table
from redcloak.runtime.matrix import Graph
from redcloak.runtime.plan import plan
from redcloak.runtime.store import Store
from redcloak.stats import Comparison, Estimate, Sample, cluster_bootstrap, compare
from redcloak.subjects import load_subject
from redcloak.suite import load
from sweep import config, drawn, options, sweep

CODESR = (Choice(name="codesr"),)
SOURCES: dict[str, tuple[bool, tuple[Choice, ...]]] = {
    "protected": (True, ()), "protected + CodeSR": (True, CODESR), "clean": (False, ()),
}  # fmt: skip
SWITCHES = ("named", "denied", "sampling")
FACTORIAL = {switches: "".join("+" if on else "-" for on in switches) for switches in product((False, True), repeat=3)}
WORDS = [("shared", 1), ("shared", 2), ("shared", 4), ("per_image", 1), ("per_image", 2), ("per_image", 4),
         ("clusters", 2), ("clusters", 4)]  # fmt: skip
METRICS = ("identity_zero", "face_found", "quality")
SHORT: dict[str, Any] = {"class_images": 4, "images_per_prompt": 2, "sampling_steps": 4}
EVERYTHING, NOTHING = FACTORIAL[True, True, True], FACTORIAL[False, False, False]


def decoupling(named: bool, denied: bool, sampling: bool) -> Decoupling:
    """One cell of the factorial."""
    return Decoupling(train_suffix=named, class_suffix=denied, infer_suffix=sampling, negative_prompt=sampling)


def ways(args: argparse.Namespace) -> dict[str, Decoupling]:
    """Every arm of one source of photos: its name and its prompts; words have fixed text and nothing beside them."""
    cells = {name: decoupling(*switches) for switches, name in FACTORIAL.items()}
    if "words" not in args.parts:
        return cells if args.parts else {}
    words = {f"{tokens} {count}": Decoupling(tokens=tokens, count=count) for tokens, count in WORDS}
    return (cells if "factorial" in args.parts else {name: cells[name] for name in (NOTHING, EVERYTHING)}) | words


def arms_of(builder: Builder, args: argparse.Namespace, purifiers: Sequence[str]) -> list[Arm]:
    """The arms of one subject; those that train alike share their models."""
    found = []
    for source in args.sources:
        protected, chain = SOURCES[source]
        node, by = (builder.protected, args.protection) if protected else (builder.clean, None)
        for name, words in ways(args).items():
            own = builder.but(decoupling=words)
            found.append(own.arm(f"{source} | {name}", name, "", node, chain, True, protection=by))
    for name in purifiers:
        for cdl in (False, True):
            chain, title = (Choice(name=name),), f"{name}{' + CDL' if cdl else ''}"
            found.append(builder.arm(title, title, "", builder.protected, chain, cdl, protection=args.protection))
    return found


def configs(args: argparse.Namespace) -> list[AuditConfig]:
    """One configuration for each subject."""
    more: dict[str, Any] = {"protection": Choice(name=args.protection), "metrics": ("identity", "quality")}
    if args.short:
        rounds = {"rounds": 1, "clean_steps": 1, "protected_steps": 1, "ascent_steps": 2}
        more |= SHORT | {"trainer": Choice(name="dreambooth", settings={"steps": 4})}
        more["protection"] = Choice(name=args.protection, settings=rounds if args.protection == "aspl" else {})
    return [config(photos, args, **more) for photos in drawn(args)]


def left(args: argparse.Namespace, purifiers: Sequence[str]) -> str:
    """What a run would compute."""
    suite, graph = load(args.suite), Graph()
    builders = [Builder(one, suite, load_subject(one.photos, suite.spec.resolution), graph) for one in configs(args)]
    targets = [node for builder in builders for arm in arms_of(builder, args, purifiers) for node in arm.targets]
    found = plan(graph, Store(args.out / "store"), args.workers, args.out, list(dict.fromkeys(targets)))
    rows = [f"{row.stage}: {row.missing} of {row.total}, {row.seconds_each or 0:.1f} s each" for row in found.rows]
    return "\n".join([*rows, f"about {found.elapsed / 3600:.1f} hours with {found.workers} workers"])


def pooled(scores: Table, arms: Sequence[str], metric: str) -> Sample:
    """The scores of several arms as those of one, each subject and seed of each with the same weight."""
    samples = [scores.sample(arm, metric) for arm in arms]
    return Sample(*(np.concatenate([getattr(s, field) for s in samples]) for field in ("values", "subjects", "seeds")))


def interval(scores: Table, arm: str, metric: str) -> Estimate:
    sample = scores.sample(arm, metric)
    return cluster_bootstrap(sample.values, sample.subjects, subclusters=sample.seeds)


def families(scores: Table, args: argparse.Namespace, source: str) -> list[dict[str, tuple[Sample, Sample]]]:
    """What is compared on identity: the main effects of the switches, and K new words against fixed text."""

    def of(*names: str) -> Sample:
        return pooled(scores, [f"{source} | {name}" for name in names], METRICS[0])

    switches = {"everything - nothing": (of(EVERYTHING), of(NOTHING))} if "factorial" in args.parts else {}
    for index, switch in enumerate(SWITCHES if switches else ()):
        sides = ([name for on, name in FACTORIAL.items() if on[index] == side] for side in (True, False))
        on, off = (of(*names) for names in sides)
        switches[f"{switch}, over the other two"] = (on, off)
    words = {}
    if "words" in args.parts:
        words = {f"{tokens} {count} - text": (of(f"{tokens} {count}"), of(EVERYTHING)) for tokens, count in WORDS}
    return [family for family in (switches, words) if family]


def tables(scores: Table, args: argparse.Namespace, purifiers: Sequence[str]) -> dict[str, Any]:
    """Print every table; the same for machines."""
    found: dict[str, Any] = {"arms": {}, "effects": {}, "purifiers": {}}
    for source in args.sources if args.parts else ():
        heads = ["named, denied, sampling", *METRICS]
        print(f"\n### {source}\n\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
        for name in ways(args):
            cells = [str(interval(scores, f"{source} | {name}", metric)) for metric in METRICS]
            found["arms"][f"{source} | {name}"] = cells
            print(f"| `{name}` | " + " | ".join(cells) + " |")
        for family in families(scores, args, source) if args.subjects > 1 else ():
            found["effects"] |= effects(source, family)
    if purifiers:
        heads = ["purifier", "alone", "with CDL", *tested_heads(len(purifiers))]
        print("\n### Purifiers, identity\n\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
        for name, one in compare(with_and_without(scores, purifiers)).items():
            cells = [str(interval(scores, arm, METRICS[0])) for arm in (name, f"{name} + CDL")]
            found["purifiers"][name] = cells
            if args.subjects > 1:
                found["effects"][f"purifiers: {name} + CDL - {name}"] = [str(one.difference), one.adjusted]
            print(f"| {name} | " + " | ".join([*cells, *tested(one)]) + " |")
    return found


def with_and_without(scores: Table, purifiers: Sequence[str]) -> dict[str, tuple[Sample, Sample]]:
    """Identity of each purifier with CDL, and alone."""
    return {name: (scores.sample(f"{name} + CDL", METRICS[0]), scores.sample(name, METRICS[0])) for name in purifiers}


def tested_heads(tests: int) -> list[str]:
    return ["difference", f"p (Holm of {tests})", "smallest detectable"]


def tested(one: Comparison) -> list[str]:
    """A comparison as cells of a table: nan where one subject allows no test, inf where so few can find nothing."""
    return [str(one.difference), f"{one.adjusted:.3f}", f"{one.detectable:.3f}"]


def effects(source: str, family: dict[str, tuple[Sample, Sample]]) -> dict[str, Any]:
    """Print one family of comparisons of identity, corrected among themselves."""
    compared = compare(family)
    print(f"\n| {source}: identity | {' | '.join(tested_heads(len(family)))} |\n|---|---|---|---|")
    for name, one in compared.items():
        print(f"| {name} | {' | '.join(tested(one))} |")
    needed = next(iter(compared.values())).needed
    print(f"\nTests of this family can reach p < 0.05 from {needed} subjects on.")
    return {f"{source}: {name}": [str(one.difference), one.adjusted] for name, one in compared.items()}


def figure(scores: Table, args: argparse.Namespace, path: Path) -> None:
    """A panel for each source: identity of each arm with its interval, the arm without anything as a line."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = list(ways(args))
    with mpl.rc_context({"font.size": 9}):
        page = Figure(figsize=(1.2 + 2.6 * len(args.sources), 0.9 + 0.24 * len(names)), layout="constrained")
        panels = page.subplots(1, len(args.sources), sharex=True, sharey=True, squeeze=False)[0]
        for axes, source in zip(panels, args.sources, strict=True):
            for row, name in enumerate(names):
                one = interval(scores, f"{source} | {name}", METRICS[0])
                axes.plot([one.low, one.high], [row, row], color="0.55", linewidth=1.5)
                axes.plot([one.estimate], [row], "o", color="tab:red" if name == EVERYTHING else "0.15", markersize=4)
                if name == NOTHING:
                    axes.axvline(one.estimate, color="0.8", linewidth=1, zorder=0)
            axes.set_title(source, fontsize=9)
            axes.set_xlabel("identity, no face = 0")
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_yticks(range(len(names)), names, family="monospace")
        panels[0].invert_yaxis()
        page.savefig(path, dpi=150)


def main() -> None:
    parser = options(__doc__, "out/cdl", subjects=8, seeds=3)
    parser.add_argument("--protection", default="aspl")
    parser.add_argument("--parts", nargs="*", default=["factorial", "words"], choices=["factorial", "words"])
    parser.add_argument("--sources", nargs="+", default=list(SOURCES), choices=list(SOURCES))
    parser.add_argument("--purifiers", action="store_true", help="also every purifier, with and without CDL")
    parser.add_argument("--short", action="store_true", help="loops cut short: proves the command, measures nothing")
    parser.add_argument("--plan", action="store_true", help="say what would run; run nothing")
    parser.add_argument("--figure", type=Path, help="where to write the figure (default OUT/cdl.png)")
    args = parser.parse_args()
    purifiers = names_here(args.suite) if args.purifiers else []
    if args.plan:
        print(left(args, purifiers))
        return
    done = sweep(configs(args), lambda builder: arms_of(builder, args, purifiers), args.out, args.workers)
    print(f"\n{args.subjects} subjects, {args.seeds} seeds, {args.protection} at {args.budget:g}/255 on {args.suite}")
    found = tables(done.scores, args, purifiers)
    (args.out / "cdl.json").write_text(json.dumps(found, indent=1) + "\n")
    if args.parts:
        figure(done.scores, args, args.figure or args.out / "cdl.png")
        print(f"\n{args.figure or args.out / 'cdl.png'}")


if __name__ == "__main__":
    main()
