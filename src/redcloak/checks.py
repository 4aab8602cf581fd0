"""Red flags: reasons not to believe a number, each a function of a finished run.

Every function here whose name starts with ``check_`` is found by :func:`run_checks`; its name with dashes for
underscores is the section of docs/red-flags.md that says when it is raised, what it means and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isnan

from redcloak.api import Flag
from redcloak.crafting.masking import blind
from redcloak.finished import Run, highest, mean, only_perturbed, rests_on, seed_spread
from redcloak.report.comparisons import differences, missing
from redcloak.report.model import CLEAN, PRIMARY, PROTECTED, RANDOM_NOISE, UNTUNED
from redcloak.report.verdict import learned
from redcloak.stats import Estimate

AS_HIGH = 0.9  # of the clean arm's identity: a score that a model without the subject should not reach
RUINED_PSNR = 20.0  # dB, purified clean photo against the clean photo
RUINED_IDENTITY = 0.5  # of the clean photos' own identity
SEVERITIES = ("critical", "warning", "info")
NO_FACE = 0.5  # share of pictures in which a face must be found
ROUNDING = 1e-3  # /255: what single precision leaves uncertain of a distance

Check = Callable[[Run], Flag | None]


def run_checks(run: Run) -> tuple[Flag, ...]:
    """Every red flag of a run, critical ones first, otherwise in the order of this file."""
    raised = [flag for check in checks().values() if (flag := check(run)) is not None]
    return tuple(sorted(raised, key=lambda flag: SEVERITIES.index(flag.severity)))


def checks() -> dict[str, Check]:
    """Every check: anchor -> function, in the order of this file."""
    found = {name: value for name, value in globals().items() if name.startswith("check_")}
    return {name.removeprefix("check_").replace("_", "-"): value for name, value in found.items()}


def check_clean_did_not_learn(run: Run) -> Flag | None:
    """The model trained on clean photos shows no more of the subject than the untuned one, by an interval."""
    gain = learned(run.scores)
    if gain is None or gain.low > 0:
        return None
    message = f"training on clean photos added {gain} of identity over the untuned model: not above 0."
    return Flag("clean-did-not-learn", CLEAN, message, "critical")


def check_untuned_scores_as_high(run: Run) -> Flag | None:
    """A model that never saw the subject scores nearly as high as the one trained on it."""
    untuned, clean = mean(run.sample(UNTUNED)), mean(run.sample(CLEAN))
    if not untuned.estimate >= AS_HIGH * clean.estimate:  # also where one of them is NaN
        return None
    message = f"the model scores {untuned} of identity before it saw the subject, and {clean.words} after."
    return Flag("untuned-scores-as-high", UNTUNED, message, "critical")


def check_budget_exceeded(run: Run) -> Flag | None:
    """A saved photo differs from its original by more than the budget allows."""
    steps, norm = run.budget.radius * 255, run.budget.norm
    found = {arm.name: highest(run.photos(arm.name, norm)) for arm in run.arms if only_perturbed(arm)}
    over = {name: value for name, value in found.items() if value > steps + ROUNDING}
    if not over:
        return None
    worst = max(over, key=lambda name: over[name])
    message = f"a saved photo is {over[worst]:g}/255 away from its original; the budget is {run.budget}."
    return Flag("budget-exceeded", worst, message, "critical", _rest(worst, over))


def check_protection_changed_nothing(run: Run) -> Flag | None:
    """The protected photos are the clean photos."""
    steps = run.photos(PROTECTED, "linf")
    if not len(steps) or steps.min() > 0:
        return None
    message = f"{int((steps == 0).sum())} of {len(steps)} protected photos are identical to their originals."
    return Flag("protection-changed-nothing", PROTECTED, message, "critical")


def check_purifier_changed_nothing(run: Run) -> Flag | None:
    """A purifier returned the photos that it was given."""
    idle = [arm for arm in run.arms if arm.purifiers and arm.purifier_steps == 0]
    if not idle:
        return None
    chain = ", ".join(idle[0].purifiers)
    message = f"{chain} returned the very photos it was given{_others([arm.name for arm in idle])}."
    also = tuple(arm.name for arm in idle[1:])
    return Flag("purifier-changed-nothing", idle[0].name, message, "critical", also)


def check_purifier_ruins_clean(run: Run) -> Flag | None:
    """A purifier destroys photos that carry no protection."""
    own = mean(run.scores.sample(CLEAN, "identity", "photos"))
    found = {
        arm.name: said
        for arm in run.arms
        if arm.purifiers and not arm.protection and (said := _ruin(run, arm.name, own))
    }
    if not found:
        return None
    worst = next(iter(found))
    also = _rest(worst, found)
    return Flag("purifier-ruins-clean", worst, f"{found[worst]}{_others([worst, *also])}.", also=also)


def _ruin(run: Run, arm: str, own: Estimate) -> str | None:
    """What is left of purified clean photos, where it is too little; ``own`` is the identity of untouched ones."""
    psnr, identity = (mean(run.scores.sample(arm, name, "photos")) for name in ("psnr", "identity"))
    if psnr.estimate < RUINED_PSNR:
        return f"purified clean photos are only {psnr.words} dB from the originals"
    if identity.estimate < RUINED_IDENTITY * own.estimate:
        return f"purified clean photos have {identity} of identity, untouched {own.words}"
    return None


def check_too_few_images(run: Run) -> Flag | None:
    """A metric rests on fewer pictures than it needs to mean something; one of sets in its smallest set."""
    short = [
        (count - score.minimum_n, arm.name, name, f"{count} {what} and needs at least {score.minimum_n}")
        for arm in run.arms
        for name, score in run.metrics.items()
        for what, count in rests_on(run, arm.name, name).items()
        if count < score.minimum_n
    ]
    if not short:
        return None
    _, arm, name, words = min(short)
    also = _rest(arm, (row[1] for row in short))
    return Flag("too-few-images", arm, f"{name} rests on {words}{_others([arm, *also])}.", also=also)


def check_too_few_subjects(run: Run) -> Flag | None:
    """The paired tests could not find any difference, however large, with so few subjects."""
    found = differences(run.scores, run.arms)
    if not found:
        return None
    arm = min(found, key=lambda name: found[name].subjects)
    few = found[arm]
    if few.subjects >= few.needed:
        return None
    if few.subjects <= 1:
        return Flag("too-few-subjects", arm, "one subject: no test can say whether arms differ for others.", "info")
    family = f"{few.tests} corrected tests need" if few.tests > 1 else "a test needs"
    message = f"{few.subjects} subjects; {family} {few.needed} before any difference can be significant."
    return Flag("too-few-subjects", arm, message)


def check_subjects_left_out(run: Run) -> Flag | None:
    """An arm has no defined score of a subject, so that comparisons with it speak of the others alone."""
    samples = {(arm.name, metric): run.sample(arm.name, metric) for arm in run.arms for metric in run.metrics}
    subjects = list(dict.fromkeys(subject for sample in samples.values() for subject in sample.subjects.tolist()))
    gone = {
        place: out for place, sample in samples.items() if len(sample.values) and (out := missing(sample, subjects))
    }
    if len(subjects) < 2 or not gone:
        return None
    arm, metric = max(gone, key=lambda place: (place[1] == PRIMARY, len(gone[place])))
    names = ", ".join(gone[arm, metric][:3]) + (", ..." if len(gone[arm, metric]) > 3 else "")
    also = _rest(arm, (name for name, _ in gone))
    what = f"{metric} is undefined for {len(gone[arm, metric])} of {len(subjects)} subjects ({names})"
    return Flag("subjects-left-out", arm, f"{what}{_others([arm, *also])}.", also=also)


def check_no_face(run: Run) -> Flag | None:
    """No face was found in most pictures, so that identity speaks of the few that have one."""
    shares = {arm.name: mean(run.sample(arm.name, "face_found")) for arm in run.arms}
    low = {name: share for name, share in shares.items() if share.estimate < NO_FACE}
    if not low:
        return None
    worst = CLEAN if CLEAN in low else min(low, key=lambda name: low[name].estimate)
    also, share = _rest(worst, low), low[worst].within(0, 1)
    message = f"a face was found in {share.estimate:.0%} of the pictures ({share.words}){_others([worst, *also])}."
    return Flag("no-face", worst, message, "critical" if worst == CLEAN else "warning", also)


def check_two_people(run: Run) -> Flag | None:
    """The photos seem to show more than one person, so that there is no one identity to lose."""
    return Flag("two-people", CLEAN, run.strangers) if run.strangers else None


def check_reference_not_held_out(run: Run) -> Flag | None:
    """Identity is measured against the very photos that the model was trained on."""
    if run.held_out:
        return None
    message = "identity is measured against the training photos: copying them would look like learning."
    return Flag("reference-not-held-out", CLEAN, message)


def check_random_noise_as_harmful(run: Run) -> Flag | None:
    """Noise without any method behind it takes as much identity as the protection does."""
    gap = run.gap(RANDOM_NOISE, PROTECTED)
    if gap is None or gap.low > 0:
        return None
    message = f"the protection took {gap} more identity than random noise of the same budget: not above 0."
    return Flag("random-noise-as-harmful", RANDOM_NOISE, message)


def check_seed_spread(run: Run) -> Flag | None:
    """Training runs that differ by their seed alone are further apart than the arms are."""
    effect = run.gap(CLEAN, PROTECTED)
    if effect is None:
        return None
    spreads = {name: seed_spread(run.sample(name)) for name in (CLEAN, PROTECTED)}
    if any(isnan(spread.estimate) for spread in spreads.values()):
        return Flag("seed-spread", CLEAN, "each subject has one training seed: how runs differ is not seen.")
    arm = max(spreads, key=lambda name: spreads[name].estimate)
    if spreads[arm].estimate <= abs(effect.estimate):
        return None
    message = f"seeds alone move identity by {_said(spreads[arm])}, the protection by {effect.words}."
    also = _rest(arm, (name for name, spread in spreads.items() if spread.estimate > abs(effect.estimate)))
    return Flag("seed-spread", arm, message, also=also)


def check_common_seeds(run: Run) -> Flag | None:
    """One seed was the same noise for every subject: intervals over subjects hold for the seeds drawn."""
    if not run.common_seeds:
        return None
    samples = (run.sample(CLEAN, metric) for metric in (PRIMARY, *run.metrics))
    sample = max(samples, key=lambda each: len(each.values))
    subjects, seeds = len(set(sample.subjects.tolist())), len(set(sample.seeds.tolist()))
    if subjects < 2:
        return None
    drawn = "this one seed" if seeds == 1 else f"these {seeds} seeds"
    message = f"all {subjects} subjects share their noise: intervals hold for {drawn}."
    return Flag("common-seeds", CLEAN, message, "info")


def check_gradient_vanishes(run: Run) -> Flag | None:
    """Hardly any gradient passed the purifier that an adaptive protection was crafted through."""
    for arm in run.arms:
        message = None if arm.lens_gradient is None else blind(arm.lens_gradient)
        if message and only_perturbed(arm):
            return Flag("gradient-vanishes", arm.name, message)
    return None


def check_white_box(run: Run) -> Flag | None:
    """The protection was crafted on the model that is then personalized: its best case. For information."""
    if run.surrogate is None or run.surrogate != run.victim:
        return None
    message = f"crafted on {run.surrogate}, the very model that is personalized."
    return Flag("white-box", PROTECTED, message, "info")


def _said(spread: Estimate) -> str:
    """Of one subject the distance between its runs is what was seen, not a mean of anything."""
    return f"{spread.estimate:.3f}" if spread.clusters == 1 else spread.words


def _rest(arm: str, names: Iterable[str]) -> tuple[str, ...]:
    """The other arms, each once, in order."""
    return tuple(dict.fromkeys(name for name in names if name != arm))


def _others(names: list[str]) -> str:
    """``" (also: protected, red_team)"`` for every name but the first."""
    return f" (also: {', '.join(sorted(names[1:]))})" if len(names) > 1 else ""
