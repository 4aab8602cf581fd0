"""Natural scene statistics, of which BRISQUE and NIQE are made: what light does in photos, and noise does not.

Cite: Ruderman, "The statistics of natural images", Network 1994; Lasmar et al., "Multiscale skewed heavy tailed model
for texture analysis", ICIP 2009 (the asymmetric generalised Gaussian and its moments).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SIGMA, REACH = 7 / 6, 3


class Fit(NamedTuple):
    """An asymmetric generalised Gaussian: its shape, its mean, and the scale of either side."""

    alpha: float
    mean: float
    left: float
    right: float

    @property
    def widths(self) -> tuple[float, float]:
        """The parameter beta of either side: scale times the root of Gamma(1 / alpha) / Gamma(3 / alpha)."""
        from scipy.special import gamma

        factor = float(np.sqrt(gamma(1 / self.alpha) / gamma(3 / self.alpha)))
        return self.left * factor, self.right * factor


def mscn(grey: Floats, c: float) -> Floats:
    """Mean-subtracted contrast-normalised coefficients of ``(H, W)``, black beyond the edge: the same shape.

    Window of 7x7, Gaussian of sigma 7/6. ``c`` keeps flat places from dividing by 0: one 8-bit step of the range.
    """
    from scipy.ndimage import correlate1d

    line = np.exp(-(np.arange(-REACH, REACH + 1) ** 2) / (2 * SIGMA**2))
    line /= line.sum()

    def local(values: Floats) -> Floats:
        rows: Floats = correlate1d(values, line, 0, mode="constant")
        both: Floats = correlate1d(rows, line, 1, mode="constant")
        return both

    mean = local(grey)
    spread = np.sqrt(np.abs(local(grey**2) - mean**2))
    coefficients: Floats = (grey - mean) / (spread + c)
    return coefficients


def fit(values: Floats) -> Fit:
    """Match the moments of the values, taken as 0 in the middle; nan where they do not vary on both sides."""
    from scipy.special import gamma

    values = values.ravel()
    squares = values**2
    low = values < 0
    if not low.any() or low.all() or not squares[~low].any():
        return Fit(np.nan, np.nan, np.nan, np.nan)
    left, right = float(np.sqrt(squares[low].mean())), float(np.sqrt(squares[~low].mean()))
    ratio = left / right
    peaked = np.abs(values).mean() ** 2 / squares.mean()
    moment = peaked * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, moments = _table()
    alpha = float(np.interp(moment, moments, shapes))
    mean = (right - left) * gamma(2 / alpha) / np.sqrt(gamma(1 / alpha) * gamma(3 / alpha))
    return Fit(alpha, float(mean), left, right)


@lru_cache
def _table() -> tuple[Floats, Floats]:
    """Shapes, and the moment that tells them: Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)), which grows with a."""
    from scipy.special import gamma

    shapes = np.arange(0.2, 10, 0.001)
    return shapes, gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
