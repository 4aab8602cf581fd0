"""A family of paired comparisons: difference, test, effect size, and what could have been found at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import nan
from typing import Any, TypeVar

import numpy as np

from redcloak.api import Interval
from redcloak.stats.bootstrap import paired_difference
from redcloak.stats.effects import cliffs_delta, cohen_dz, rank_biserial
from redcloak.stats.paired import holm, signed_rank, subject_differences
from redcloak.stats.power import ALPHA, smallest_effect, subjects_needed
from redcloak.stats.sample import Estimate, Floats, Sample, mean_over, shared

Name = TypeVar("Name")


@dataclass(frozen=True)
class Comparison:
    """One arm against another, subject by subject.

    Attributes:
        means: of either arm, over the (subject, seed) pairs that both have.
        difference: the mean of the paired differences, in units of the score.
        p: of Wilcoxon's signed-rank test over the subjects; NaN with fewer than two.
        adjusted: the same after Holm's correction for the whole family.
        tests: how many tests the family holds.
        effect: Cohen's d_z, with few subjects in mind.
        rank_biserial: from -1 (every subject below) to 1 (every subject above).
        cliffs_delta: the same between the subjects' means of both arms, as if they were not paired.
        detectable: the smallest difference that this test finds in 80 of 100 studies of this size, in units of the
            score, at the level of Holm's first step; infinite where the test cannot reach it.
        left_out: subjects that only one of the arms has scores of.
    """

    means: tuple[float, float]
    difference: Estimate
    p: float
    adjusted: float
    tests: int
    effect: Interval
    rank_biserial: float
    cliffs_delta: float
    detectable: float
    left_out: tuple[str, ...] = ()

    @property
    def subjects(self) -> int:
        """How many subjects both arms have."""
        return self.difference.clusters if self.difference.over == "subjects" else min(self.difference.clusters, 1)

    @property
    def differs(self) -> bool:
        """Whether the arms differ, after correction."""
        return self.adjusted <= ALPHA

    @property
    def needed(self) -> int:
        """The fewest subjects with which this family's tests can say anything."""
        return subjects_needed(self.tests)


def compare(family: Mapping[Name, tuple[Sample, Sample]], seed: int = 0) -> dict[Name, Comparison]:
    """Compare the two samples under each name, all of them one family for Holm's correction.

    The unit is the subject: of each one the mean difference over the (subject, seed) pairs that both arms have. What
    is random, the bootstrap of the difference, follows ``seed``.
    """
    first = {name: _compare(*pair, seed) for name, pair in family.items()}
    tests = sum(not np.isnan(each.p) for each in first.values())
    adjusted = holm([each.p for each in first.values()])
    return {
        name: replace(each, adjusted=p, tests=tests, detectable=_detectable(*family[name], tests))
        for (name, each), p in zip(first.items(), adjusted, strict=True)
    }


def _compare(a: Sample, b: Sample, seed: int) -> Comparison:
    gaps = subject_differences(a, b)
    differences = np.array(list(gaps.values()))
    cells = shared([a, b])
    everybody = {str(subject) for subject in (*a.subjects.tolist(), *b.subjects.tolist())}
    return Comparison(
        means=(mean_over(a, cells), mean_over(b, cells)),
        difference=paired_difference(a, b, seed=seed),
        p=signed_rank(differences),
        adjusted=nan,
        tests=0,
        effect=cohen_dz(differences),
        rank_biserial=rank_biserial(differences),
        cliffs_delta=cliffs_delta(_means(a, gaps), _means(b, gaps)),
        detectable=nan,
        left_out=tuple(sorted(everybody - {str(subject) for subject in gaps})),
    )


def _means(sample: Sample, subjects: Mapping[Any, float]) -> Floats:
    zero = Sample(np.zeros_like(sample.values), sample.subjects, sample.seeds)
    means = subject_differences(sample, zero)
    return np.array([means[subject] for subject in subjects])


def _detectable(a: Sample, b: Sample, tests: int) -> float:
    differences = np.array(list(subject_differences(a, b).values()))
    if len(differences) < 2:
        return nan
    if len(differences) < subjects_needed(tests):
        return float("inf")
    return smallest_effect(len(differences), ALPHA / max(tests, 1)) * float(differences.std(ddof=1))
