"""Which arms differ, and how each subject fared: the paired tests of a report and the numbers behind its dots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from redcloak.report.names import CLEAN, PRIMARY, PROTECTED, UNTUNED
from redcloak.report.table import Scores
from redcloak.stats import Comparison, Estimate, Sample, cluster_bootstrap, compare

if TYPE_CHECKING:
    from redcloak.report.model import Arm

DRAWS = 500  # of an interval of a single subject: there are many of them, and none carries a verdict


def measured_by(arm: Arm) -> str | None:
    """The arm that another is compared with: a treatment with the protection it treats, all else with clean photos."""
    if arm.name in (CLEAN, UNTUNED):
        return None
    return PROTECTED if arm.treated else CLEAN


def differences(scores: Scores, arms: Sequence[Arm], metric: str = PRIMARY) -> dict[str, Comparison]:
    """Every arm minus the arm that it is measured by, all one family of tests; only those that share a picture."""
    family = {}
    for arm in arms:
        if other := measured_by(arm):
            pair = scores.sample(arm.name, metric), scores.sample(other, metric)
            if all(np.isfinite(sample.values).any() for sample in pair):
                family[arm.name] = pair
    return compare(family)


def one_by_one(sample: Sample) -> dict[str, Estimate]:
    """Each subject's own estimate, over its seeds or pictures; each seed's where there is a single subject."""
    subjects = list(dict.fromkeys(sample.subjects.tolist()))
    if len(subjects) > 1:
        parts = {str(subject): sample.only(subject) for subject in subjects}
    else:
        parts = {f"seed {seed}": _run(sample, seed) for seed in dict.fromkeys(sample.seeds.tolist())}
    found = {
        name: cluster_bootstrap(part.values, part.subjects, subclusters=part.seeds, n=DRAWS)
        for name, part in parts.items()
    }
    return {name: estimate for name, estimate in found.items() if estimate.clusters}


def missing(sample: Sample, subjects: Sequence[str]) -> list[str]:
    """The subjects of which an arm has no defined score."""
    there = set(sample.subjects[np.isfinite(sample.values)].tolist())
    return [subject for subject in subjects if subject not in there]


def _run(sample: Sample, seed: int) -> Sample:
    kept = sample.seeds == seed
    return Sample(sample.values[kept], sample.subjects[kept], sample.seeds[kept])
