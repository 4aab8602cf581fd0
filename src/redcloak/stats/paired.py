"""Tests of paired differences, one per subject, and the correction for making several of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import nan
from typing import Any

import numpy as np
from scipy.stats import rankdata

from redcloak.stats.sample import Floats, Ints, Sample, cell_means, shared

EXACT_UP_TO = 14  # subjects: 2**14 sign patterns are enumerated, more are sampled


def signed_ranks(differences: Floats) -> tuple[Floats, Floats]:
    """The ranks of the sizes of ``(S,)`` differences, ties shared, and their signs; zeros are left out."""
    kept = differences[np.isfinite(differences) & (differences != 0)]
    return np.asarray(rankdata(np.abs(kept))), np.sign(kept)


def signed_rank(differences: Floats) -> float:
    """The two-sided p of Wilcoxon's signed-rank test: are differences as often, and as far, above 0 as below?

    Exact at every size and with ties: given the ranks, each sign is a fair coin, and the distribution of the sum of
    positive ranks is built up rank by rank. Differences of 0 say nothing and are left out. The smallest p that S
    subjects can give is ``2 ** (1 - S)``; NaN with fewer than two differences, 1 where all of them are 0.

    Cite: Wilcoxon, "Individual Comparisons by Ranking Methods", Biometrics Bulletin 1945; Pratt & Gibbons,
    "Concepts of Nonparametric Theory", 1981, section 3.7 (ties).
    """
    if np.isfinite(differences).sum() < 2:
        return nan
    ranks, signs = signed_ranks(differences)
    doubled = np.rint(2 * ranks).astype(np.int64)  # shared ranks are halves; doubled they count steps
    chances = chances_of_sums(doubled)
    above = int(doubled[signs > 0].sum())
    return min(1.0, 2 * float(min(chances[: above + 1].sum(), chances[above:].sum())))


def chances_of_sums(steps: Ints) -> Floats:
    """The chance of each sum of the steps whose coin shows heads."""
    chances = np.zeros(int(steps.sum()) + 1)
    chances[0] = 1.0
    for step in steps:
        moved = np.zeros_like(chances)
        moved[step:] = chances[: len(chances) - step]
        chances = (chances + moved) / 2
    return chances


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p-values: all below 0.05 are together wrong in at most 5 of 100 families of tests.

    The smallest p is multiplied by the number of tests, the next by one less, and so on, never falling. NaN, a test
    that could not be made, is none of the tests and stays NaN.

    Cite: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 1979.
    """
    values = np.asarray(ps, dtype=np.float64)
    made = np.flatnonzero(np.isfinite(values))
    order = made[np.argsort(values[made], kind="stable")]
    adjusted = np.full(len(values), nan)
    scaled = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return [float(value) for value in adjusted]


def subject_differences(a: Sample, b: Sample) -> dict[Any, float]:
    """The mean of ``a - b`` of each subject, over the (subject, seed) pairs that both have.

    Every seed of a subject counts the same. A subject without such a pair is not there.
    """
    cells = shared([a, b])
    gaps = cell_means(a, cells) - cell_means(b, cells) if cells else np.zeros(0)
    found: dict[Any, list[float]] = {}
    for (subject, _), gap in zip(cells, gaps, strict=True):
        found.setdefault(subject, []).append(float(gap))
    return {subject: float(np.mean(each)) for subject, each in found.items()}


def sign_flip(a: Sample, b: Sample, n: int = 20_000, seed: int = 0) -> float:
    """The two-sided p of "a and b differ on average", by flipping the signs of the subjects' differences.

    Exact for up to 14 subjects, else sampled (``n`` patterns beside the observed one). The smallest p that S
    subjects can give is ``2 ** (1 - S)``; with one subject the test cannot say anything: NaN.
    """
    differences = np.array(list(subject_differences(a, b).values()))
    count = len(differences)
    if count < 2:
        return nan
    if count <= EXACT_UP_TO:
        signs = np.array(list(product((1.0, -1.0), repeat=count)))
    else:
        drawn = np.random.default_rng(seed).choice((1.0, -1.0), size=(n, count))
        signs = np.vstack([np.ones(count), drawn])
    sums = np.abs(signs @ differences)
    return float(np.mean(sums >= sums[0] * (1 - 1e-9)))
