"""What this many subjects could have shown: power, the smallest effect, and the fewest subjects of a test."""

from __future__ import annotations

from math import ceil, isnan, log2, nan, sqrt

from scipy.optimize import brentq
from scipy.stats import nct
from scipy.stats import t as student

ALPHA = 0.05
POWER = 0.8


def power(effect: float, subjects: int, alpha: float = ALPHA) -> float:
    """The chance that a two-sided paired t test finds ``effect``, in standard deviations of the differences.

    NaN with fewer than two subjects.

    Cite: Cohen, "Statistical Power Analysis", 1988, section 2.3.
    """
    if subjects < 2:
        return nan
    degrees, shift = subjects - 1, abs(effect) * sqrt(subjects)
    bound = float(student.isf(alpha / 2, degrees))
    below, above = float(nct.cdf(-bound, degrees, shift)), float(nct.sf(bound, degrees, shift))
    # The far tail is at most alpha / 2, and scipy's series may give it up as NaN where it is nothing.
    return above + (0.0 if isnan(below) else below)


def smallest_effect(subjects: int, alpha: float = ALPHA, wanted: float = POWER) -> float:
    """The effect, in standard deviations of the differences, that is found in ``wanted`` of all studies of this size.

    A study that found nothing says that the effect is probably smaller than this, not that there is none. NaN with
    fewer than two subjects.
    """
    if subjects < 2:
        return nan
    highest = 2 * (float(student.isf(alpha / 2, subjects - 1)) + float(student.isf(1 - wanted, subjects - 1)))
    return float(brentq(lambda effect: power(effect, subjects, alpha) - wanted, 0.0, highest))


def subjects_needed(tests: int = 1, alpha: float = ALPHA) -> int:
    """The fewest subjects with which a signed-rank test, one of ``tests`` that are corrected for, can reach ``alpha``.

    Its smallest p is ``2 ** (1 - S)``, however large the effect: 6 subjects for one test, 8 for six.
    """
    return 1 + ceil(log2(max(tests, 1) / alpha))
