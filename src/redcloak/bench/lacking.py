"""What a row of the leaderboard lacks of its matrix: only rows that all met the same red teams can be ranked.

A red team that failed, or is still at work, or has met one subject of six, would raise the row of a protection that it
undoes. So would one that a filter leaves out of one row.
"""

from __future__ import annotations

from itertools import product
from math import isfinite

from redcloak.bench.axes import NOTHING, PLAIN
from redcloak.bench.board import Team, team_label
from redcloak.bench.grid import BASELINES, NO_BUDGET, Axes, Matrix
from redcloak.bench.results import Place, Results, by


class Lacking:
    """The arms of a matrix without a score: every protection is to meet every red team with everybody."""

    def __init__(self, matrix: Matrix, results: Results) -> None:
        config, score = matrix.config, matrix.config.ranked_by
        self.several = len(config.trainers) > 1
        self.scored = {
            row.axes
            for row in results.rows
            if row.source == "generated" and row.metric == score and isfinite(row.value)
        }
        axes = [arm.axes for arm in matrix.arms]
        self.baselines = by((each for each in axes if each.protection in BASELINES), lambda each: each[1:3])
        self.teams: list[Team] = list(dict.fromkeys(each[3:6] for each in axes if each.protection not in BASELINES))
        self.everybody = list(product(*(config.labels(axis) for axis in ("subject", "prompts", "seed"))))

    def arms(self, place: Place, team: Team) -> list[Axes]:
        """What one red team lacks."""
        return [axes for axes in self._wanted(place, team) if axes not in self.scored]

    def words(self, place: Place) -> tuple[str, ...]:
        """What a row lacks, ``codesr + cdl (3 of 12)``: each red team's arms that are there, and the references'."""
        if place[0] in BASELINES:
            parts = {place[0]: list(self.baselines[place])}
        else:
            parts = {team_label(team, self.several): self._wanted(place, team) for team in self.teams}
            parts |= {name: self._reference(name, place[1]) for name in BASELINES}
        counts = {name: (sum(axes in self.scored for axes in wanted), len(wanted)) for name, wanted in parts.items()}
        return tuple(f"{name} ({there} of {wanted})" for name, (there, wanted) in counts.items() if there < wanted)

    def _wanted(self, place: Place, team: Team) -> list[Axes]:
        if place[0] in BASELINES:
            return [axes for axes in self.baselines[place] if axes[3:6] == team]
        return [Axes(subject, *place, *team, prompts, seed) for subject, prompts, seed in self.everybody]

    def _reference(self, name: str, budget: str) -> list[Axes]:
        """What a row is compared with: baselines with nothing done to them."""
        arms = [*self.baselines.get((name, NO_BUDGET), ()), *self.baselines.get((name, budget), ())]
        return [axes for axes in arms if (axes.purifier, axes.decoupling) == (NOTHING, PLAIN)]
