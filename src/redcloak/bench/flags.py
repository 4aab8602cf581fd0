"""The red flags of a matrix, and which arms each of them speaks of.

The checks are asked once for each protection and trainer, in the names that an audit gives to arms. A flag goes to the
arms that it names. One that names clean photos or the untuned model, which everything is compared with, goes to every
arm of that trainer; one of a protection's photos, or of protection against noise, to whatever is done to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from redcloak import registry
from redcloak.api import Flag
from redcloak.bench.axes import NOTHING, PLAIN
from redcloak.bench.board import Team, team_label
from redcloak.bench.facts import Facts
from redcloak.bench.grid import BASELINES, NO_BUDGET, Matrix
from redcloak.bench.results import EMPTY, Cell, Place, Results, Teams
from redcloak.checks import run_checks
from redcloak.config import budget_of
from redcloak.finished import Run
from redcloak.report.model import CLEAN, PROTECTED, RANDOM_NOISE, UNTUNED
from redcloak.report.model import Arm as Summary
from redcloak.report.table import Source
from redcloak.stats import Sample

OF_ARMS = frozenset(
    (
        "too-few-images",
        "subjects-left-out",
        "no-face",
        "seed-spread",
        "purifier-changed-nothing",
        "purifier-ruins-clean",
    )
)  # flags that speak of the pictures of the arms that they name, and of no others
Where = tuple[Place, Team]


@dataclass(frozen=True)
class _Scores:
    """The results of a matrix as the checks ask for them: by the names that they give to arms."""

    results: Results
    cells: Mapping[str, list[Cell]]

    def sample(self, arm: str, metric: str, source: Source = "generated") -> Sample:
        """The values of one arm, over all prompts."""
        mine = self.cells.get(arm, [])
        if source == "photos":
            return self.results.sample(mine[0], metric, "photos") if mine else EMPTY
        return self.results.over(mine, metric)


class Flags:
    """The flags of every arm of a matrix."""

    def __init__(self, matrix: Matrix, results: Results, facts: Facts, teams: Teams) -> None:
        self.config = matrix.config
        self.results, self.facts, self.teams = results, facts, teams
        self.there = frozenset(results.cells)
        self.held_out = all(matrix.held_out.values())
        self.strangers = " ".join(f"{label}: {said}" for label, said in matrix.strangers.items() if said) or None
        self.references = min(matrix.references.values(), default=None)
        self.choices = {option.label: option.chain for option in (*self.config.protections, *self.config.purifiers)}
        self.raised: dict[Where, dict[str, Flag]] = {}
        for place in teams:
            if place[0] not in BASELINES:
                self._raise(place)

    def of(self, place: Place, team: Team) -> tuple[str, ...]:
        """The anchors of the flags of an arm."""
        return tuple(self.raised.get((place, team), ()))

    def critical(self, place: Place, team: Team) -> tuple[str, ...]:
        """Those that void its number."""
        found = self.raised.get((place, team), {})
        return tuple(anchor for anchor, flag in found.items() if flag.severity == "critical")

    def cells(self) -> dict[Cell, tuple[str, ...]]:
        """The anchors by cell, as ``results.parquet`` has them."""
        return {
            cell: tuple(found)
            for (place, team), found in self.raised.items()
            for cell in self.teams.get(place, {}).get(team, ())
        }

    def _raise(self, place: Place) -> None:
        for trainer in dict.fromkeys(team[1] for team in self.teams[place]):
            names = self._names(place, trainer)
            for flag in run_checks(self._run(place, names)):
                for where in self._about(flag, names, place, trainer):
                    self.raised.setdefault(where, {}).setdefault(flag.anchor, flag)

    def _names(self, place: Place, trainer: str) -> dict[str, Where]:
        """What the checks call the arms of one trainer -> where they stand."""
        nothing = (NOTHING, trainer, PLAIN)
        names = {
            UNTUNED: ((UNTUNED, NO_BUDGET), (NOTHING, NOTHING, PLAIN)),
            CLEAN: ((CLEAN, NO_BUDGET), nothing),
            RANDOM_NOISE: ((RANDOM_NOISE, place[1]), nothing),
            PROTECTED: (place, nothing),
        }
        for name, where in ((PROTECTED, place), (CLEAN, (CLEAN, NO_BUDGET))):
            for team in self.teams.get(where, ()):
                if team[1] == trainer and team != nothing:
                    names[f"{name}+{team_label(team)}"] = (where, team)
        return names

    def _about(self, flag: Flag, names: Mapping[str, Where], place: Place, trainer: str) -> Iterator[Where]:
        """The arms that a flag speaks of."""
        named = [names[arm] for arm in (flag.arm, *flag.also) if arm in names]
        yield from named
        if names[CLEAN] in named or (flag.anchor not in OF_ARMS and names[UNTUNED] in named):
            yield from (
                (where, team) for where in self.teams for team in self.teams[where] if team[1] in (trainer, NOTHING)
            )
        elif flag.anchor not in OF_ARMS:
            yield from ((place, team) for team in self.teams[place] if team[1] == trainer)
        else:  # what a treatment does to clean photos is said of it
            yield from ((place, team) for where, team in named if where[0] == CLEAN and team in self.teams[place])

    def _run(self, place: Place, names: Mapping[str, Where]) -> Run:
        cells = {
            name: [cell for cell in self.teams.get(where, {}).get(team, ()) if cell in self.there]
            for name, (where, team) in names.items()
        }
        protection = self.choices[place[0]][0]
        needed = registry.describe("protect", protection.name).method.needs
        surrogate = self.config.suite if "backbone" in needed else None
        return Run(
            scores=_Scores(self.results, cells),
            arms=tuple(self._summary(name, *where) for name, where in names.items() if cells[name]),
            budget=budget_of(protection, float(place[1])),
            metrics=registry.scores((*self.config.metrics, "fidelity")),
            held_out=self.held_out,
            references=self.references,
            surrogate=surrogate,
            victim=self.config.suite,
            strangers=self.strangers,
            common_seeds=self.config.common_seeds,
        )

    def _summary(self, name: str, place: Place, team: Team) -> Summary:
        chain = self.choices.get(team[0], ())
        return Summary(
            name=name,
            title=name,
            protection=None if place[0] in (UNTUNED, CLEAN) else place[0],
            budget=None if place[1] == NO_BUDGET else float(place[1]),
            purifiers=tuple(step.name for step in chain),
            cdl=team[2] != PLAIN,
            purifier_steps=self.facts.changes.get((*place, team[0])) if chain else None,
            lens_gradient=self.facts.gradients.get(place),
        )
