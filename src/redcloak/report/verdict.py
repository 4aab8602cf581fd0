"""The verdict of an audit: one sentence with an interval, and the machine word that goes with it.

The question is whether a model personalized on protected photos learns less of the subject than one
personalized on clean photos, and whether somebody who cleans the photos first wins that back.

- ``no_effect``: even the upper end of the loss is under a quarter of what clean photos teach the model.
- ``does_not_hold``: a counter-measure won back more than half of the loss, by its whole interval.
- ``holds``: every counter-measure won back less than half of it, by its whole interval.
- ``undecided``: anything else, and whenever the clean model did not learn the subject to begin with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from redcloak.api import Interval
from redcloak.report.model import CLEAN, PRIMARY, PROTECTED, RED_TEAM, UNTUNED, Arm, Verdict, Word, recoveries
from redcloak.report.table import Scores
from redcloak.stats import Estimate, cluster_bootstrap, for_every_seed, paired_difference

MATTERS = 0.25  # of what personalization on clean photos teaches the model
UNDONE = 0.5  # of what the protection took
FEW_SUBJECTS = 4  # with fewer, a 95% interval is right only if subjects differ as a normal distribution does

Answer = tuple[Word, str]


def verdict(scores: Scores, arms: Sequence[Arm], metric: str = PRIMARY) -> Verdict:
    """Say whether the protection held, from the scores of generated pictures.

    Args:
        scores: the long table; the arms ``clean`` and ``protected`` are needed, ``untuned`` is the floor.
        arms: every arm, in order; those that treat a protection are the counter-measures.
        metric: an identity score, higher is more of the subject.
    """
    clean = scores.sample(CLEAN, metric)
    loss = paired_difference(clean, scores.sample(PROTECTED, metric))
    gained = learned(scores, metric)
    if gained is None:
        gained = cluster_bootstrap(clean.values, clean.subjects, subclusters=clean.seeds)
    answer = _unanswerable(loss, gained) or _too_little(loss, gained)
    word, sentence = answer or _treated(scores, arms, loss, metric)
    return Verdict(word=word, sentence=sentence, scope=_scope(loss), metric=metric, interval=loss)


def learned(scores: Scores, metric: str = PRIMARY) -> Estimate | None:
    """What training on clean photos adds over the untuned model; None where there is no interval for it."""
    clean, untuned = scores.sample(CLEAN, metric), scores.sample(UNTUNED, metric)
    gain = paired_difference(clean, for_every_seed(untuned, clean))
    return None if isnan(gain.low) else gain


def _unanswerable(loss: Estimate, gained: Estimate) -> Answer | None:
    if not loss.clusters:
        return "undecided", "Undecided: the clean and the protected arm have no scored picture in common."
    if isnan(loss.low):
        return "undecided", f"Undecided: identity {_fell(loss)}, on too few pictures for an interval."
    if not gained.low > 0:
        return "undecided", (
            "Undecided: there was nothing to protect. From clean photos the model did not measurably learn "
            f"the subject (identity {_fell(gained, rise=True)} over the untuned model)."
        )
    return None


def _too_little(loss: Estimate, gained: Estimate) -> Answer | None:
    matters = MATTERS * gained.estimate
    if loss.high < 0:
        return "no_effect", f"The protection protected nothing: identity {_fell(loss)} over clean photos."
    if loss.high < matters:
        how = "something, but too little to matter" if loss.low > 0 else "nothing measurable"
        return "no_effect", (
            f"The protection did {how}: identity {_fell(loss)}, where clean photos teach the model {_amount(gained)}."
        )
    if loss.low <= 0:
        return "undecided", (
            f"Undecided at this sample size: identity {_fell(loss)} under the protection, which may be nothing or much."
        )
    return None


def _treated(scores: Scores, arms: Sequence[Arm], loss: Estimate, metric: str) -> Answer:
    shares = {
        name: recovery.share
        for name, recovery in recoveries(scores, arms, metric).items()
        if recovery.share is not None and not isnan(recovery.share.low)
    }
    titles = {arm.name: arm.title for arm in arms}
    if RED_TEAM in titles:
        titles[RED_TEAM] = f"the {titles[RED_TEAM][:1].lower()}{titles[RED_TEAM][1:]}"
    if not shares:
        return "undecided", (
            f"Undecided: identity {_fell(loss)} under the protection, but no counter-measure was scored."
        )
    return _undone(shares, titles, loss) or _held(shares, titles, loss)


def _undone(shares: Mapping[str, Estimate], titles: Mapping[str, str], loss: Estimate) -> Answer | None:
    by = {name: share for name, share in shares.items() if share.low > UNDONE}
    alone = {name: share for name, share in by.items() if name != RED_TEAM}
    if alone:
        best = max(alone, key=lambda name: alone[name].estimate)
        return "does_not_hold", (
            f"The protection did not hold: it took {_amount(loss)} of identity, and {titles[best]} won back "
            f"{_percent(alone[best])} of that."
        )
    if by:
        return "does_not_hold", (
            "The protection did not hold: no purifier alone clearly undid it, but the red team won back "
            f"{_percent(by[RED_TEAM])} of the {_amount(loss)} of identity that it took."
        )
    return None


def _held(shares: Mapping[str, Estimate], titles: Mapping[str, str], loss: Estimate) -> Answer:
    best = max(shares, key=lambda name: shares[name].high)
    won_back = f"won back {_percent(shares[best])} of that"
    if shares[best].high < UNDONE:
        who = titles[best]
        if len(shares) > 1:
            who = f"the strongest of {len(shares)} counter-measures, {who},"
        return "holds", f"The protection held: it took {_amount(loss)} of identity, and {who} {won_back}."
    return "undecided", (
        f"Undecided at this sample size: the protection took {_amount(loss)} of identity, and {titles[best]} "
        f"{won_back}, neither clearly less nor clearly more than half."
    )


def _scope(loss: Estimate) -> str:
    if not loss.clusters or isnan(loss.low):
        return ""
    level = f"{loss.level:.0%}"
    if loss.over == "subjects":
        few = "; with so few they are right if subjects differ normally" if loss.clusters < FEW_SUBJECTS else ""
        return f"The {level} intervals are over {loss.clusters} subjects and their training seeds{few}."
    if loss.over == "seeds":
        return (
            f"One subject: the {level} intervals speak of {loss.clusters} training seeds and their pictures, "
            "not of other people."
        )
    return (
        f"One subject and one training seed: the {level} intervals speak of pictures alone, not of another "
        "training run and not of other people."
    )


def _fell(change: Interval, *, rise: bool = False) -> str:
    """``fell by 0.31 [0.25, 0.37]``; ``rise`` where a positive change is a rise."""
    up = (change.estimate < 0) != rise
    low, high = (change.low, change.high) if change.estimate >= 0 else (-change.high, -change.low)
    interval = "" if isnan(low) else f" [{low:.2f}, {high:.2f}]"
    return f"{'rose' if up else 'fell'} by {abs(change.estimate):.2f}{interval}"


def _amount(loss: Interval) -> str:
    return f"{loss.estimate:.2f} [{loss.low:.2f}, {loss.high:.2f}]"


def _percent(share: Interval) -> str:
    return f"{share.estimate:.0%} [{share.low:.0%}, {share.high:.0%}]"
