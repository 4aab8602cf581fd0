"""A finished run as red flags see it: its scores, its arms, and what was measured of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan

import numpy as np

from redcloak.api import Budget, Score
from redcloak.report.model import PRIMARY, Arm
from redcloak.report.table import Scores
from redcloak.stats import Estimate, Floats, Sample, cluster_bootstrap, paired_difference


@dataclass(frozen=True)
class Run:
    """A finished audit as the checks see it.

    Attributes:
        scores: the long table of scores, or whatever answers for it.
        arms: every arm, in order.
        budget: what the protection was allowed.
        metrics: what each metric in ``scores`` means.
        held_out: whether the reference photos were kept out of training.
        references: how many reference photos there are, of the subject with the fewest; None where it is not known.
        surrogate: the model that the protection was crafted on; None where it uses none, or it is not known.
        victim: the model that was personalized.
        common_seeds: whether one seed was the same noise for every subject.
        strangers: which photos seem to show someone else than the rest; None where none do.
    """

    scores: Scores
    arms: tuple[Arm, ...]
    budget: Budget
    metrics: Mapping[str, Score] = field(default_factory=dict)
    held_out: bool = True
    references: int | None = None
    surrogate: str | None = None
    victim: str = ""
    strangers: str | None = None
    common_seeds: bool = False

    def sample(self, arm: str, metric: str = PRIMARY) -> Sample:
        """One metric of the pictures that one arm's model draws."""
        return self.scores.sample(arm, metric)

    def gap(self, above: str, below: str) -> Estimate | None:
        """How much more identity one arm has than another; None where there is no interval for it."""
        gap = paired_difference(self.sample(above), self.sample(below))
        return None if isnan(gap.low) else gap

    def photos(self, arm: str, metric: str) -> Floats:
        """One metric of the photos that one arm's model was personalized on, without the undefined values."""
        values = self.scores.sample(arm, metric, "photos").values
        return values[np.isfinite(values)]


def mean(sample: Sample) -> Estimate:
    """The mean of a sample with its interval over subjects, and over seeds within them."""
    return cluster_bootstrap(sample.values, sample.subjects, subclusters=sample.seeds)


def highest(values: Floats) -> float:
    """The highest value, or 0 where there is none."""
    return float(values.max()) if len(values) else 0.0


def only_perturbed(arm: Arm) -> bool:
    """Whether a protection is all that was done to the photos."""
    return arm.protection is not None and not arm.treated


def rests_on(run: Run, arm: str, metric: str) -> dict[str, int]:
    """How many pictures have a defined value, and references where they count; empty where it was not asked for."""
    sample = run.sample(arm, metric)
    if not len(sample.values):
        return {}
    if not run.metrics[metric].of_set:
        return {"pictures": int(np.isfinite(sample.values).sum())}
    sizes, sets = Counter(sample.cells), set(zip(sample.subjects.tolist(), sample.seeds.tolist(), strict=True))
    fewest = {"pictures in a set": min(sizes[each] for each in sets)}
    return fewest if run.references is None else fewest | {"reference photos": run.references}


def seed_spread(sample: Sample) -> Estimate:
    """The largest distance between a subject's seeds, averaged over subjects; NaN where none has two."""
    values: dict[tuple[str, int], list[float]] = {}
    for cell, value in zip(sample.cells, sample.values, strict=True):
        if cell is not None:
            values.setdefault(cell, []).append(value)
    means: dict[str, list[float]] = {}
    for (subject, _), each in values.items():
        means.setdefault(subject, []).append(float(np.mean(each)))
    ranges = [max(each) - min(each) for each in means.values() if len(each) > 1]
    return cluster_bootstrap(np.array(ranges), np.arange(len(ranges)))
