"""Dose and response of misalignment and damage, and how much of the damage goes through the misalignment.

Rows are arms of subjects. Everything is compared within subjects: each column loses its subject's mean, so that nobody
who is easy to learn, or easy to move, stands for an effect. Whole subjects are drawn again for every interval.

Mediation is the product of two regressions,

    mediator = a dose + controls,      outcome = c' dose + b mediator + controls,      through the mediator: a b

It is the effect through the mediator where the two are linear and *nothing beside dose and controls moves both mediator
and outcome*. No statistic can check that; interventions that move one and hold the other can.

Cite: Baron & Kenny, "The Moderator-Mediator Variable Distinction", J. Pers. Soc. Psychol. 51, 1986; MacKinnon,
Lockwood & Williams, Multivariate Behavioral Research 39, 2004 (the bootstrap of a product); Imai, Keele & Yamamoto,
Statistical Science 25, 2010 (what it assumes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from redcloak.errors import UserError
from redcloak.stats import Estimate, Floats, cluster_bootstrap


@dataclass(frozen=True)
class Panel:
    """Arms of subjects: ``(N,)`` labels, and columns ``(N,)`` of what was done to the photos and what came of it."""

    subjects: NDArray[np.str_]
    arms: NDArray[np.str_]
    columns: dict[str, Floats]

    def of(self, arms: Sequence[str]) -> Panel:
        """The rows of some arms."""
        kept = np.isin(self.arms, arms)
        return Panel(self.subjects[kept], self.arms[kept], {name: each[kept] for name, each in self.columns.items()})

    def within(self, names: Sequence[str], *, ranks: bool = False) -> Floats:
        """Columns ``(N, names)`` less their subject's mean, or the ranks of that; a row with NaN is an error."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise UserError(f"panel: it has no column {missing[0]!r}; it has {', '.join(self.columns)}.")
        table = np.stack([self.columns[name] for name in names], 1).astype(np.float64)
        if not np.isfinite(table).all():
            bad = np.argwhere(~np.isfinite(table))[0]
            raise UserError(f"panel: {names[bad[1]]} of {self.subjects[bad[0]]}, {self.arms[bad[0]]} is undefined.")
        for subject in np.unique(self.subjects):
            rows = self.subjects == subject
            table[rows] -= table[rows].mean(0)
        return np.stack([rankdata(column) for column in table.T], 1) - (len(table) + 1) / 2 if ranks else table

    def bootstrap(self, statistic: Callable[[Floats], Floats], n: int, seed: int) -> Estimate:
        """A statistic of weights ``(n, N)`` of the rows, whole subjects drawn again."""
        rows = np.arange(len(self.subjects), dtype=np.float64)
        return cluster_bootstrap(rows, self.subjects, lambda _, weights: statistic(weights), n=n, seed=seed)


@dataclass(frozen=True)
class Mediation:
    """The effect of a unit of dose: through the mediator, past mediator and controls, all of it, the share through."""

    through: Estimate
    past: Estimate
    total: Estimate
    share: Estimate


def partial_correlation(
    panel: Panel, x: str, y: str, given: Sequence[str] = (), *, ranks: bool = False, n: int = 2000, seed: int = 0
) -> Estimate:
    """The correlation of two columns within subjects, given others, with its 95% interval.

    ``ranks`` makes it Spearman's. Given others, ranks of what is linear are not: something of them is left, and is
    correlated. So ranks are for two columns alone.
    From the inverse of the weighted covariance ``P``: ``-P_xy / sqrt(P_xx P_yy)``. NaN where a column is constant.
    """
    table = panel.within([x, y, *given], ranks=ranks)

    def statistic(weights: Floats) -> Floats:
        precision = np.linalg.pinv(_moments(table, weights), hermitian=True)
        scale = precision[:, 0, 0] * precision[:, 1, 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(scale > 0, -precision[:, 0, 1] / np.sqrt(scale), np.nan))

    if np.ptp(table[:, :2], axis=0).min() < 1e-12:
        return Estimate(np.nan, np.nan, np.nan, clusters=len(np.unique(panel.subjects)))
    return panel.bootstrap(statistic, n, seed)


def mediation(
    panel: Panel, dose: str, mediator: str, outcome: str, controls: Sequence[str] = (), *, n: int = 2000, seed: int = 0
) -> Mediation:
    """The product-of-coefficients estimate within subjects, with 95% intervals clustered by subject.

    Args:
        panel: arms in which the dose was set, each of every subject.
        dose: the column of the treatment, such as the budget of an aimed perturbation (0 where there is none).
        mediator: what the effect may go through.
        outcome: the damage.
        controls: what else the dose moves and the mediator goes with; effects through *them* are in neither part, but
            in the total, which is that of the dose alone.
        n: replicates.
        seed: the same seed gives the same intervals.
    """
    table = panel.within([dose, mediator, outcome, *controls])
    extra = list(range(3, table.shape[1]))

    def paths(weights: Floats) -> tuple[Floats, Floats, Floats]:
        moments = _moments(table, weights)
        a = _slopes(moments, [0, *extra], 1)[:, 0]
        both = _slopes(moments, [0, 1, *extra], 2)
        return a * both[:, 1], both[:, 0], _slopes(moments, [0], 2)[:, 0]

    def share(weights: Floats) -> Floats:
        through, _, total = paths(weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(through / total)

    return Mediation(
        through=panel.bootstrap(lambda weights: paths(weights)[0], n, seed),
        past=panel.bootstrap(lambda weights: paths(weights)[1], n, seed),
        total=panel.bootstrap(lambda weights: paths(weights)[2], n, seed),
        share=panel.bootstrap(share, n, seed),
    )


def _moments(table: Floats, weights: Floats) -> Floats:
    """The weighted second moments ``(n, K, K)`` of columns whose mean is nothing within every subject."""
    return np.asarray(np.einsum("nr,rp,rq->npq", weights, table, table, optimize=True))


def _slopes(moments: Floats, inputs: Sequence[int], output: int) -> Floats:
    """The coefficients ``(n, inputs)`` of least squares, from the second moments."""
    left = moments[:, inputs][:, :, inputs]
    return np.asarray((np.linalg.pinv(left, hermitian=True) @ moments[:, inputs, output, None])[..., 0])
