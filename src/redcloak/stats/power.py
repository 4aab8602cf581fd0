"""What this many subjects could have shown: power, the smallest effect, and the fewest subjects of a test.

All of the test that is reported, Wilcoxon's exact signed-rank test. Near the fewest subjects it is far from a t test:
all signs must agree.
"""

from __future__ import annotations

from functools import cache
from math import ceil, inf, log2, nan

import numpy as np

from redcloak.stats.paired import chances_of_sums
from redcloak.stats.sample import Floats

ALPHA = 0.05
POWER = 0.8
BATCHES, BATCH = 20, 500  # of simulated studies: 10,000 know a power of 80% to within 1%


def power(effect: float, subjects: int, alpha: float = ALPHA) -> float:
    """The chance that a two-sided signed-rank test finds ``effect``, in standard deviations of the differences.

    Of normal differences, and in the direction that the effect has. Simulated from a fixed seed, the same studies for
    every effect. 0 where the test cannot reach ``alpha``, NaN with fewer than two subjects.

    Cite: Hollander, Wolfe & Chicken, "Nonparametric Statistical Methods", 3rd edition 2014, sections 3.1 (the test) and
    3.3 (Tukey's interval, one end of which decides what a study finds).
    """
    return nan if subjects < 2 else float(np.mean(_found_from(subjects, alpha) < abs(effect)))


def smallest_effect(subjects: int, alpha: float = ALPHA, wanted: float = POWER) -> float:
    """The effect, in standard deviations of the differences, that is found in ``wanted`` of all studies of this size.

    A study that found nothing says that the effect is probably smaller than this, not that there is none. Simulated as
    in :func:`power`. Infinite where the test cannot reach ``alpha``, NaN with fewer than two subjects.
    """
    if subjects < 2:
        return nan
    return inf if _allowed(subjects, alpha) < 0 else float(np.quantile(_found_from(subjects, alpha), wanted))


def subjects_needed(tests: int = 1, alpha: float = ALPHA) -> int:
    """The fewest subjects with which a signed-rank test, one of ``tests`` that are corrected for, can reach ``alpha``.

    Its smallest p is ``2 ** (1 - S)``, however large the effect: 6 subjects for one test, 8 for six.
    """
    return 1 + ceil(log2(max(tests, 1) / alpha))


def _allowed(subjects: int, alpha: float) -> int:
    """The largest sum of ranks against the effect with which the test still rejects; -1 where none is small enough."""
    below = np.cumsum(chances_of_sums(np.arange(1, subjects + 1)))
    return int(np.searchsorted(2 * below, alpha, side="right")) - 1


@cache
def _found_from(subjects: int, alpha: float) -> Floats:
    """The effect from which on each of ``(n,)`` simulated studies is significant.

    The sum of negative ranks is the number of Walsh averages (of two differences, or of one with itself) below 0, and
    an effect moves them all. So a study rejects from the effect that lifts all but the allowed ones above 0.
    """
    allowed = _allowed(subjects, alpha)
    if allowed < 0:
        return np.full(1, inf)
    rng, (first, second) = np.random.default_rng(0), np.triu_indices(subjects)
    drawn = (rng.normal(size=(BATCH, subjects)) for _ in range(BATCHES))
    walsh = ((batch[:, first] + batch[:, second]) / 2 for batch in drawn)
    return -np.concatenate([np.partition(batch, allowed, axis=1)[:, allowed] for batch in walsh])
