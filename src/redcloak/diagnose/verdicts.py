"""A verdict for each claim about the cause: supported, refuted, or undecided at this number of subjects.

The smallest effect that counts is declared before the run (:class:`Margins`). An effect is *present* where its interval
lies above zero and its estimate reaches the margin; *absent* where the whole interval lies below the margin; otherwise
nothing is decided. So "refuted" never means "not significant". A claim whose instrument failed (a perturbation that was
to move CLIP and did not, say) or that has nothing to explain (a protection that does no damage) is undecided.

Cite: Lakens, "Equivalence Tests", Soc. Psychol. Personal. Sci. 8, 2017 (a margin declared beforehand).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from redcloak.config import Strict
from redcloak.diagnose.causes import Panel, mediation, partial_correlation
from redcloak.stats import Estimate, Sample, cluster_bootstrap, paired_difference

Answer = Literal["supported", "refuted", "undecided"]
UNAIMED = ("clean", "random_noise", "matched_noise", "shuffled")
CONTROLS = ("matched_noise", "shuffled", "transplant")
STATISTICS = ("l2", "spectrum")  # what a control shares with the protection


class Margins(Strict):
    """The smallest effects that count, declared before the run."""

    damage: float = Field(0.05, gt=0, description="identity lost")
    correlation: float = Field(0.3, gt=0, lt=1, description="partial correlation of misalignment and damage")
    share: float = Field(0.5, gt=0, lt=1, description="of the damage that must go through the main cause")
    held: float = Field(0.25, gt=0, lt=1, description="share of the protection's own value at which a quantity is held")


@dataclass(frozen=True)
class Verdict:
    """What was found of one claim; ``why`` is what the answer rests on, ``figure`` the one that shows the effect."""

    claim: str
    words: str
    answer: Answer
    effect: Estimate
    margin: float
    figure: Literal["effects", "dose"] = "effects"
    why: str = ""


@dataclass(frozen=True)
class Evidence:
    """``learned``: identity that each arm's models learned; ``panel``: what was done to the photos, and the damage."""

    learned: Mapping[str, Sample]
    panel: Panel
    margins: Margins = field(default_factory=Margins)

    def lost(self, arm: str, than: str = "clean") -> Estimate:
        """How much less identity an arm learned than another, paired by subject and seed."""
        return paired_difference(self.learned[than], self.learned[arm])

    def done(self, arm: str, column: str, minus: str | None = None) -> Estimate:
        """What was done to an arm's photos, or to those of another the less."""
        values, rows = self.panel.columns[column], {}
        for name in (arm, minus):
            chosen = self.panel.arms == name
            rows[name] = dict(zip(self.panel.subjects[chosen].tolist(), values[chosen].tolist(), strict=True))
        subjects = sorted(rows[arm])
        found = [rows[arm][each] - (rows[minus][each] if minus else 0) for each in subjects]
        return cluster_bootstrap(np.array(found), np.array(subjects))


def panel(rows: Sequence[Mapping[str, Any]], learned: Mapping[str, Sample], aimed: Sequence[str] = ()) -> Panel:
    """What was done to photos (rows: ``subject``, ``arm``, numbers) beside the identity lost, where both are known.

    ``aimed``: the arms whose dose is their L_inf, as saved; that of every other arm is 0.
    """
    kept = [row for row in rows if row["arm"] in learned]
    subjects, arms = (np.array([row[name] for row in kept]) for name in ("subject", "arm"))
    means = {
        arm: {each: float(np.nanmean(s.values[s.subjects == each])) for each in np.unique(s.subjects).tolist()}
        for arm, s in learned.items()
    }
    numbers = [name for name, value in kept[0].items() if isinstance(value, float)]
    columns = {name: np.array([row[name] for row in kept]) for name in numbers}
    columns["dose"] = np.array([row["linf"] if row["arm"] in aimed else 0.0 for row in kept])
    columns["damage"] = np.array(
        [means["clean"][subject] - means[arm][subject] for subject, arm in zip(subjects, arms, strict=True)]
    )
    return Panel(subjects, arms, columns)


def presence(effect: Estimate, margin: float) -> Literal["present", "absent", "undecided"]:
    """Whether an effect of at least ``margin`` is there; of one subject nothing is decided."""
    if effect.over != "subjects":
        return "undecided"
    if effect.low > 0 and effect.estimate >= margin:
        return "present"
    return "absent" if effect.high < margin else "undecided"


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Every claim that the arms at hand can speak of, in the order of docs/causal.md."""
    kinds = (_statistics, _targeted, _realigned, _text, _dose, _cure, _refutations)
    return [verdict for kind in kinds for verdict in kind(evidence)]


def _judge(
    claim: str, words: str, effect: Estimate, margin: float, broken: str = "", *, expects: bool = True, why: str = ""
) -> Verdict:
    """``expects`` is whether the claim says that the effect is there; ``broken`` why it cannot be tested."""
    found = presence(effect, margin)
    answer: Answer = "undecided"
    if not broken and found != "undecided":
        answer = "supported" if (found == "present") == expects else "refuted"
    return Verdict(claim, words, answer, effect, margin, why=broken or why)


def _harmless(evidence: Evidence, arm: str = "base", called: str = "the protection") -> str:
    """Why there is nothing to explain, or nothing."""
    lost = evidence.lost(arm)
    return "" if presence(lost, evidence.margins.damage) == "present" else f"{called}'s damage is {lost}"


def _loose(evidence: Evidence, arm: str, *columns: str, minus: str | None = None) -> str:
    """Why what was to be held is not (or, ``minus`` another arm, is not the same in both), or nothing."""
    for column in columns:
        here, base = evidence.done(arm, column, minus), evidence.done("base", column)
        if not here.estimate <= evidence.margins.held * base.estimate:
            return f"{column} is {here}{f' above that of {minus}' if minus else ''}, of {base}"
    return ""


def _gone(evidence: Evidence, arm: str, *columns: str) -> str:
    """Why an arm lacks what it was to share with the protection, or nothing."""
    for column in columns:
        here, base = evidence.done(arm, column), evidence.done("base", column)
        if here.low <= 0 or not here.estimate >= (1 - evidence.margins.held) * base.estimate:
            return f"{column} is {here}, of {base}"
    return ""


def _unlike(evidence: Evidence, arm: str) -> str:
    """Why a control's statistics are not those of the protection, or nothing."""
    apart, base = evidence.done(arm, "l2", "base"), evidence.done("base", "l2")
    spectrum, held = evidence.done(arm, "spectrum"), evidence.margins.held
    if abs(apart.estimate) > held * base.estimate:
        return f"l2 differs by {apart}, of {base}"
    return f"its spectrum is {spectrum} away" if spectrum.estimate > held else ""


def _statistics(evidence: Evidence) -> Iterator[Verdict]:
    """Of two perturbations of the same statistics, the more misaligned one does the more damage."""
    for arm in CONTROLS:
        if arm not in evidence.learned:
            continue
        apart, lost = evidence.done("base", "misalignment", arm), evidence.lost("base", arm)
        broken = _harmless(evidence) or _unlike(evidence, arm)
        if not broken and not (apart.low > 0 or apart.high < 0):
            broken = f"they are as misaligned: {apart}"
        signed = replace(lost, estimate=-lost.estimate, low=-lost.high, high=-lost.low)
        effect = lost if apart.estimate > 0 else signed
        words = f"Statistics fixed ({arm}): the more misaligned does the more damage"
        yield _judge("1", words, effect, evidence.margins.damage, broken, why=f"misalignment apart by {apart}")


def _targeted(evidence: Evidence) -> Iterator[Verdict]:
    margin = evidence.margins.damage
    if "clip_only" in evidence.learned:
        moved, words = "misalignment", "Misalignment of the photo alone does damage"
        broken = _loose(evidence, "clip_only", "latent_shift") or _gone(evidence, "clip_only", moved)
        why = f"{moved} {evidence.done('clip_only', moved)}"
        yield _judge("2a", words, evidence.lost("clip_only"), margin, broken, why=why)
    if {"clip_decoded", "random_noise"} <= set(evidence.learned):  # noise: its latents are moved as much
        moved, words = "misalignment_decoded", "Misalignment of what is decoded does damage, beside noise"
        broken = _loose(evidence, "clip_decoded", "latent_shift", minus="random_noise")
        broken = broken or _gone(evidence, "clip_decoded", moved)
        why, effect = f"{moved} {evidence.done('clip_decoded', moved)}", evidence.lost("clip_decoded", "random_noise")
        yield _judge("2b", words, effect, margin, broken, why=why)
    if "latents_only" in evidence.learned:
        broken = _harmless(evidence) or _aligned(evidence, "latents_only")
        words, effect = "Without misalignment there is no damage", evidence.lost("latents_only")
        why = f"embedding moved by {evidence.done('latents_only', 'embedding')}"
        yield _judge("2c", words, effect, margin, broken, expects=False, why=why)


def _aligned(evidence: Evidence, arm: str) -> str:
    """Why an arm is not what a protection is without misalignment, in both views; or nothing."""
    return _loose(evidence, arm, "embedding", "embedding_decoded") or _gone(evidence, arm, "latent_shift")


def _realigned(evidence: Evidence) -> Iterator[Verdict]:
    cases = {"realign": ("3a", "photo", "embedding"), "realign_decoded": ("3b", "decoded photo", "embedding_decoded")}
    for arm, (claim, view, column) in cases.items():
        if arm in evidence.learned:
            broken = _harmless(evidence) or _loose(evidence, arm, column) or _gone(evidence, arm, "latent_shift")
            words, effect = f"Re-aligning the {view} alone undoes damage", evidence.lost("base", arm)
            why = f"{column} left: {evidence.done(arm, column)}"
            yield _judge(claim, words, effect, evidence.margins.damage, broken, why=why)


def _text(evidence: Evidence) -> Iterator[Verdict]:
    cases = {
        "words": ("4a", "Words that fit the protected photos undo damage"),
        "swap_identifier": ("4b", "A clean model's identifier embedding undoes damage"),
        "swap_text_encoder": ("4c", "A clean model's text encoder undoes damage"),
    }
    for arm, (claim, words) in cases.items():
        if arm in evidence.learned:
            gain = evidence.done("base", "words_gain") if arm == "words" else None
            broken = f"no words are nearer than the plain prompt: {gain}" if gain and not gain.low > 0 else ""
            effect, why = evidence.lost("base", arm), f"nearer in cosine by {gain}" if gain else ""
            yield _judge(claim, words, effect, evidence.margins.damage, _harmless(evidence) or broken, why=why)


def _dose(evidence: Evidence) -> Iterator[Verdict]:
    """Over all perturbations, the damage goes with misalignment; of what a protection does, most goes through it."""
    given, margins = ("latent_shift", "perceptual"), evidence.margins
    for letter, column in (("a", "misalignment"), ("b", "misalignment_decoded")):
        effect = partial_correlation(evidence.panel, column, "damage", given)
        words = f"Damage goes with {column}, given latent shift and perceptual distance"
        yield replace(_judge(f"5{letter}", words, effect, margins.correlation), figure="dose")
    dosed = evidence.panel.arms[evidence.panel.columns["dose"] > 0]
    observed = evidence.panel.of([*UNAIMED, *np.unique(dosed).tolist()])  # nobody intervened on what CLIP sees of these
    for letter, column in (("c", "misalignment"), ("d", "misalignment_decoded")):
        for controls in ((), given):
            found = mediation(observed, "dose", column, "damage", controls)
            share, total = found.share, found.total
            answer: Answer = "undecided"
            if total.low > 0 and total.over == "subjects":
                answer = "supported" if share.low > margins.share else "undecided"
                answer = "refuted" if share.high < margins.share else answer
            words = f"Most damage goes through {column}" + (", with the controls" if controls else "")
            yield Verdict(f"5{letter}", words, answer, share, margins.share, why=f"{found.through} of {total}")


def _cure(evidence: Evidence) -> Iterator[Verdict]:
    for arm in evidence.learned:
        if arm.startswith("clean+"):
            effect = evidence.lost(arm)
            words = f"The cure does not harm the healthy: {arm.removeprefix('clean+')}"
            yield _judge("6", words, effect, evidence.margins.damage, expects=False)
    for arm in evidence.learned:
        if arm.startswith("base+"):
            words, effect = f"{arm.removeprefix('base+')} undoes damage", evidence.lost("base", arm)
            yield _judge("6", words, effect, evidence.margins.damage, _harmless(evidence))


def _refutations(evidence: Evidence) -> Iterator[Verdict]:
    for arm in ("realign_decoded", "latents_only"):
        if arm in evidence.learned:
            words = f"Misalignment removed, the subject still not learned ({arm})"
            broken = _harmless(evidence) or _aligned(evidence, arm)
            yield _judge("7a", words, evidence.lost(arm), evidence.margins.damage, broken)
    treated, cured = "adaptive+codesr+cdl", "clean+codesr+cdl+negative"
    if {treated, cured, "adaptive"} <= set(evidence.learned):
        broken, effect = _harmless(evidence, "adaptive", "the adaptive protection"), evidence.lost(treated, cured)
        yield _judge("7b", "The red team fails on an adaptive protection", effect, evidence.margins.damage, broken)
