"""Is misalignment the cause? ``python benchmarks/causal.py`` intervenes, and prints a verdict for each claim.

Arms: a protection and controls that keep its statistics; perturbations that move only what CLIP sees, or only what the
trainer sees; the protection re-aligned; the protected photos under words that fit them, and models with another's
words; the red team's parts on clean photos; an adaptive protection against the whole of it. What each perturbation did
is verified on the saved photos. Margins are declared beforehand (``--margins``). docs/causal.md tells how to read it.

Twelve people and two seeds take about two hours on two idle cores; the same command resumes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from redcloak.arms import Arm, Builder
from redcloak.config import Choice, read_yaml, validate
from redcloak.diagnose.causal_figures import dose, effects
from redcloak.diagnose.interventions import VERIFIED, nearest_words, verify
from redcloak.diagnose.verdicts import Evidence, Margins, panel, verdicts
from redcloak.images import load_images
from redcloak.prompts import NONE, Decoupling
from redcloak.report.model import Arm as ArmSummary
from redcloak.suite import load
from sweep import Sweep, config, drawn, options, sweep

CODESR = (Choice(name="codesr"),)
SILENT = Decoupling(negative_prompt=False)  # CDL without its negative prompt
NEGATIVE = Decoupling(train_suffix=False, infer_suffix=False)  # the negative prompt without CDL


def perturbations(args: argparse.Namespace) -> dict[str, Choice]:
    """Every way that photos are perturbed, by its name in the tables."""
    base = {"name": args.base, "settings": {"steps": args.ascent}}
    short = {"steps": args.ascent}
    both = short | {"view": "both"}
    return {
        "base": Choice(name=args.base, settings=short),
        "half": Choice(name=args.base, settings=short | {"budget": args.budget / 2}),
        "matched_noise": Choice(name="matched_noise", settings={"base": base}),
        "shuffled": Choice(name="shuffled", settings={"base": base}),
        "transplant": Choice(name="transplant", settings={"base": base}),
        "clip_only": Choice(name="clip_only", settings=short),
        "clip_decoded": Choice(name="clip_only", settings=short | {"view": "decoded", "tolerance": args.noise_shift}),
        "latents_only": Choice(name="latents_only", settings=both),
        "realign": Choice(name="realign", settings=short | {"base": base}),
        "realign_decoded": Choice(name="realign", settings=both | {"base": base, "keeps": "size", "tolerance": 0.1}),
        "adaptive": Choice(name="adaptive", settings={"base": base, "through": [["codesr"]]}),
    }


def photos_of(builder: Builder, choices: dict[str, Choice]) -> list[Arm]:
    """The perturbed photos alone: no model is trained."""
    summary = ArmSummary(name="clean", title="clean", words="")
    made = [Arm(summary, photos=builder.clean)]
    for name, choice in choices.items():
        made.append(Arm(summary.model_copy(update={"name": name}), photos=builder.protect(choice)))
    return made


def arms_of(builder: Builder, choices: dict[str, Choice], words: str) -> list[Arm]:
    """Every arm of one subject; ``words`` are what its protected photos look like to CLIP."""
    made = {name: builder.protect(choice) for name, choice in choices.items()}
    plain = [name for name in choices if name != "adaptive"]
    arms = [builder.arm("clean", "Clean", "", builder.clean)]
    arms += [builder.arm(name, name, "", made[name], protection=name) for name in plain]
    fitting = Decoupling(
        class_suffix=False, infer_suffix=False, negative_prompt=False, noise_token=words
    )  # the instance prompt alone says what is there
    arms.append(builder.but(decoupling=fitting).arm("words", "Fitting words", words, made["base"], (), True))
    first = {arm.summary.name: arm for arm in arms}
    for part in ("identifier", "text_encoder"):
        arms.append(builder.swapped(f"swap_{part}", f"Swapped {part}", "", first["base"], first["clean"], part))
    for name, source in (("base", made["base"]), ("adaptive", made["adaptive"])):
        arms.append(builder.arm(f"{name}+red_team", f"{name} + red team", "", source, CODESR, True))
    return arms + factorial(builder)


def factorial(builder: Builder) -> list[Arm]:
    """CodeSR, CDL and the negative prompt on clean photos; nothing at all is the clean arm itself."""
    words = {"": NONE, "+cdl": SILENT, "+negative": NEGATIVE, "+cdl+negative": Decoupling()}
    return [
        builder.but(decoupling=decoupling).arm(
            f"clean{purifier}{name}", f"clean{purifier}{name}", "", builder.clean, chain, True
        )
        for purifier, chain in (("", ()), ("+codesr", CODESR))
        for name, decoupling in words.items()
        if purifier or name
    ]


def measured(done: Sweep, args: argparse.Namespace) -> list[dict[str, Any]]:
    """What each perturbation did, the mean over a subject's photos: one row for each subject and arm."""
    suite, rows = load(args.suite), []
    for subject, group in done.arms.items():
        clean, _ = load_images(done.read(group[0].photos).path / "images")
        for arm in group:
            images, _ = load_images(done.read(arm.photos).path / "images")
            found = verify(images, clean, suite, suite_subject(args))
            values = {name: round(float(value.mean()), 5) for name, value in found.items()}
            rows.append({"subject": subject, "arm": arm.summary.name, **values, "words": nearest(images, suite, args)})
    return rows


def suite_subject(args: argparse.Namespace) -> Any:
    return config("drawn:0", args).subject.words


def nearest(images: torch.Tensor, suite: Any, args: argparse.Namespace) -> str:
    return nearest_words(images, suite.clip, suite_subject(args))


def main() -> None:
    parser = options(__doc__, "out/causal", subjects=12)
    parser.add_argument("--base", default="advdm", help="the protection that is taken apart")
    parser.add_argument("--steps", type=int, default=150, help="steps of each training (default %(default)s)")
    parser.add_argument("--pictures", type=int, default=4, help="pictures of each prompt (default %(default)s)")
    parser.add_argument("--ascent", type=int, default=60, help="steps of each perturbation (default %(default)s)")
    parser.add_argument("--noise-shift", type=float, default=0.12, help="latent shift that sign noise has, rms")
    parser.add_argument("--margins", type=Path, help="a YAML file of the smallest effects that count")
    parser.add_argument("--verify", action="store_true", help="perturb, print what it did to the photos, and stop")
    args = parser.parse_args()
    margins = validate(Margins, read_yaml(args.margins), str(args.margins)) if args.margins else Margins()
    choices = perturbations(args)
    trainer = Choice(name="dreambooth", settings={"steps": args.steps})
    common = {"protection": Choice(name="none"), "trainer": trainer, "images_per_prompt": args.pictures}
    configs = [config(photos, args, **common) for photos in drawn(args)]
    made = sweep(configs, lambda builder: photos_of(builder, choices), args.out, args.workers)
    rows = measured(made, args)
    words = {row["subject"]: row["words"] for row in rows if row["arm"] == "base"}
    if args.verify:
        verified(rows)
        return
    done = sweep(configs, lambda b: arms_of(b, choices, words[b.config.photos]), args.out, args.workers)
    names = list(dict.fromkeys(arm.summary.name for group in done.arms.values() for arm in group))
    learned = {name: done.scores.sample(name, "identity_zero") for name in names}
    found = panel(rows, learned, {"base": 1.0, "half": 0.5})
    report(Evidence(learned, found, margins), rows, words, args)


def report(evidence: Evidence, rows: list[dict[str, Any]], words: dict[str, str], args: argparse.Namespace) -> None:
    """Print what was done and what was found, and write ``causal.json`` and two figures."""
    print(f"\n{args.subjects} subjects, {args.seeds} seeds, {args.base} at {args.budget:g}/255 on {args.suite}, "
          f"{args.steps} steps of training; margins {evidence.margins}\n")  # fmt: skip
    table = verified(rows)
    learned = {name: str(evidence.lost(name)) for name in evidence.learned}
    print("\n| arm | identity lost |\n|---|---|")
    for name, value in learned.items():
        print(f"| {name} | {value} |")
    answers = verdicts(evidence)
    print("\n| | claim | verdict | effect | margin | drawn again | figure | |\n|---|---|---|---|---|---|---|---|")
    for each in answers:
        effect, figure = each.effect, f"{each.figure}.svg"
        print(f"| {each.claim} | {each.words} | **{each.answer}** | {effect} | {each.margin:g} "
              f"| {effect.clusters} {effect.over} | {figure} | {each.why} |")  # fmt: skip
    effects(answers, args.out / "effects.svg")
    dose(evidence.panel, args.out / "dose.svg")
    facts = {"margins": evidence.margins.model_dump(), "words": words, "photos": rows, "table": table}
    facts |= {"identity lost": learned, "verdicts": [asdict(each) for each in answers]}
    (args.out / "causal.json").write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")


def verified(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Print the means over subjects of what was done to the photos."""
    table = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        common = Counter(row["words"] for row in mine).most_common(1)[0][0]
        means = {name: f"{sum(row[name] for row in mine) / len(mine):.3f}" for name in VERIFIED}
        table.append({"photos": arm, **means, "words": common})
    print("| photos | " + " | ".join(VERIFIED) + " | nearest words |\n|---|" + "---|" * (len(VERIFIED) + 1))
    for row in table:
        print("| " + " | ".join(row.values()) + " |")
    return table


if __name__ == "__main__":
    main()
