"""Effect sizes of paired differences: how large, beside how much subjects differ, and how often."""

from __future__ import annotations

from math import exp, inf, isnan, lgamma, log, nan, sqrt

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct

from redcloak.api import Interval
from redcloak.stats.paired import signed_ranks
from redcloak.stats.sample import Floats


def correction(degrees: int) -> float:
    """Hedges' factor J, which takes the upward bias from a standardised mean of few differences.

    Cite: Hedges, "Distribution Theory for Glass's Estimator of Effect Size", J. Educational Statistics 1981, eq. 6e.
    """
    return exp(lgamma(degrees / 2) - lgamma((degrees - 1) / 2) - log(degrees / 2) / 2) if degrees > 1 else nan


def cohen_dz(differences: Floats, level: float = 0.95) -> Interval:
    """The mean of ``(S,)`` differences in units of their standard deviation, with its interval.

    The estimate is corrected for few subjects; the interval is exact for normal differences, from the noncentral t.
    NaN with fewer than three subjects. Where all subjects differ by the same amount it is infinite, or 0.

    Cite: Cohen, "Statistical Power Analysis", 1988, section 2.3.5; Steiger & Fouladi, "Noncentrality Interval
    Estimation", 1997 (the interval).
    """
    values = differences[np.isfinite(differences)]
    count = len(values)
    if count < 3:
        return Interval(nan, nan, nan, count, level)
    middle, spread = float(values.mean()), float(values.std(ddof=1))
    if spread <= 1e-12 * abs(middle):
        same = inf if middle > 0 else -inf if middle < 0 else 0.0
        return Interval(same, same, same, count, level)
    t = sqrt(count) * middle / spread
    low, high = (_noncentrality(t, count - 1, tail) for tail in ((1 + level) / 2, (1 - level) / 2))
    return Interval(middle / spread * correction(count - 1), low / sqrt(count), high / sqrt(count), count, level)


def _noncentrality(t: float, degrees: int, tail: float) -> float:
    """The shift of a noncentral t whose chance of lying below ``t`` is ``tail``."""

    def excess(shift: float) -> float:
        # Where scipy's series gives up, the normal approximation has long been exact to all digits that matter.
        chance = float(nct.cdf(t, degrees, shift))
        return (float(shift < t) if isnan(chance) else chance) - tail

    reach = 10 + 4 * abs(t)
    return float(brentq(excess, t - reach, t + reach))


def rank_biserial(differences: Floats) -> float:
    """How one-sided ``(S,)`` differences are: 1 all above 0, -1 all below, 0 balanced; sizes count by their rank.

    Cite: Kerby, "The Simple Difference Formula", Comprehensive Psychology 2014.
    """
    ranks, signs = signed_ranks(differences)
    return float((ranks * signs).sum() / ranks.sum()) if len(ranks) else nan


def cliffs_delta(a: Floats, b: Floats) -> float:
    """The chance that one of ``(N,)`` a lies above one of ``(M,)`` b, minus the chance that it lies below.

    It does not know of pairs: 1 where even the lowest of a is above the highest of b.

    Cite: Cliff, "Dominance Statistics", Psychological Bulletin 1993.
    """
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if not len(a) or not len(b):
        return nan
    return float(np.sign(a[:, None] - b[None]).mean())
