"""Intervals, paired tests and effect sizes that respect how scores come about: pictures, of seeds, of subjects.

The long table goes in as one :class:`Sample` per arm; what comes out has an interval and says what it rests on.
``docs/statistics.md`` says what is computed, under which assumptions, and how well it keeps its level.
"""

from redcloak.stats.bootstrap import cluster_bootstrap, dyadic_bootstrap, expected, mean, paired_difference, recovered
from redcloak.stats.compare import Comparison, compare
from redcloak.stats.effects import cliffs_delta, cohen_dz, rank_biserial
from redcloak.stats.least import least_difference
from redcloak.stats.paired import holm, sign_flip, signed_rank, subject_differences
from redcloak.stats.power import power, smallest_effect, subjects_needed
from redcloak.stats.sample import Estimate, Floats, Level, Recovery, Sample, for_every_seed

__all__ = [
    "Comparison",
    "Estimate",
    "Floats",
    "Level",
    "Recovery",
    "Sample",
    "cliffs_delta",
    "cluster_bootstrap",
    "cohen_dz",
    "compare",
    "dyadic_bootstrap",
    "expected",
    "for_every_seed",
    "holm",
    "least_difference",
    "mean",
    "paired_difference",
    "power",
    "rank_biserial",
    "recovered",
    "sign_flip",
    "signed_rank",
    "smallest_effect",
    "subject_differences",
    "subjects_needed",
]
