"""Read the leaderboard off the results of a matrix: every protection under every red team, with its red flags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isnan

from redcloak import __version__, registry
from redcloak.api import Budget, Flag
from redcloak.bench.board import Board, Failure, Standing, Team, TeamCell, team_label
from redcloak.bench.config import NOTHING, PLAIN, MatrixConfig
from redcloak.bench.grid import BASELINES, NO_BUDGET, Arm, Matrix
from redcloak.bench.results import EMPTY, Cell, Results, by
from redcloak.checks import Run, run_checks
from redcloak.report.model import CLEAN, PRIMARY, PROTECTED, RANDOM_NOISE, UNTUNED
from redcloak.report.model import Arm as Summary
from redcloak.report.table import Source
from redcloak.stats import Estimate, Sample, cluster_bootstrap, paired_difference, recovered
from redcloak.store import Artifact, Store


@dataclass
class Facts:
    """What only the store can tell of the photos: seconds, largest changes, and shares of gradients."""

    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    changes: dict[tuple[str, str, str], int] = field(default_factory=dict)
    gradients: dict[tuple[str, str], float] = field(default_factory=dict)

    @classmethod
    def of(cls, arms: Iterable[Arm], store: Store) -> Facts:
        """Read the manifests of protections and purifiers, each once."""
        facts, seen = cls(), set[str]()
        for arm in arms:
            cell = Cell.of(arm.axes)
            for node in (arm.photos, arm.trained_on):
                if node is None or node.key in seen or (found := store.find(node.key)) is None:
                    continue
                seen.add(node.key)
                notes = found.manifest.notes
                if node.stage == "protect":
                    facts.seconds.setdefault(cell[:2], []).append(found.manifest.wall_seconds)
                    share = notes.get("lens_gradient")
                    if isinstance(share, int | float):
                        facts.gradients[cell[:2]] = min(float(share), facts.gradients.get(cell[:2], 1.0))
                elif node.stage == "purify" and isinstance(change := notes.get("largest_change"), int | float):
                    facts.changes[cell.photos] = max(int(change), facts.changes.get(cell.photos, 0))
        return facts


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


def board(matrix: Matrix, results: Results, store: Store, arms: list[Arm], failures: Iterable[Failure]) -> Board:
    """Read the leaderboard off the results; red flags are written into ``results.flags``."""
    ranking = _Ranking(matrix, results, Facts.of(arms, store))
    standings = [ranking.standing(*place) for place in ranking.places if place[0] not in BASELINES]
    baselines = [ranking.standing(*place) for place in ranking.places if place[0] in (CLEAN, RANDOM_NOISE)]
    manifests = _manifests(arms, store)
    return Board(
        redcloak_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        protocol=results.protocol,
        version=results.version,
        title=matrix.config.title,
        suite=results.suite,
        metric=PRIMARY,
        subjects=len(matrix.config.subjects),
        seeds=len(matrix.config.seeds),
        arms=len(matrix.arms),
        arms_finished=len(arms),
        standings=tuple(sorted(standings, key=lambda row: -_number(row.survives))),
        baselines=tuple(baselines),
        failures=tuple(failures),
        wall_seconds=_seconds(manifests),
        libraries=manifests[0].manifest.libraries if manifests else {},
        config=matrix.config.model_dump(mode="json"),
    )


class _Ranking:
    """The standings of the protections of one matrix."""

    def __init__(self, matrix: Matrix, results: Results, facts: Facts) -> None:
        self.config: MatrixConfig = matrix.config
        self.results, self.facts = results, facts
        self.held_out = all(matrix.held_out.values())
        self.strangers = " ".join(f"{label}: {said}" for label, said in matrix.strangers.items() if said) or None
        self.references = min(matrix.references.values(), default=None)
        self.several = len(self.config.trainers) > 1
        self.teams = {place: by(cells, lambda cell: cell.team) for place, cells in self._by_place().items()}
        self.places = [place for place in self.teams if place[0] != UNTUNED]
        self.choices = {option.label: option.chain for option in (*self.config.protections, *self.config.purifiers)}

    def _by_place(self) -> Mapping[tuple[str, str], list[Cell]]:
        return by(self.results.cells, lambda cell: (cell.protection, cell.budget))

    def sample(self, place: tuple[str, str], team: Team, metric: str = PRIMARY) -> Sample:
        """The values under one red team, over all prompts."""
        return self.results.over(self.teams.get(place, {}).get(team, ()), metric)

    def clean(self, team: Team) -> Sample:
        """The reference of a red team: its trainer on clean photos, with nothing done to them."""
        return self.sample((CLEAN, NO_BUDGET), (NOTHING, team[1], PLAIN))

    def standing(self, protection: str, budget: str) -> Standing:
        """One row: every red team, and the one that leaves least."""
        place = (protection, budget)
        flags = self._flags(place)
        cells = [self._cell(place, team, flags) for team in self.teams[place]]
        scored = [cell for cell in cells if not isnan(cell.survives.estimate)] or cells
        worst = min(scored, key=lambda cell: _number(cell.survives))
        team = (worst.purifier, worst.trainer, worst.decoupling)
        nothing = (NOTHING, worst.trainer, PLAIN)
        return Standing(
            protection=protection,
            budget=budget,
            survives=worst.survives,
            at=cells.index(worst),
            untreated=paired_difference(self.clean(team), self.sample(place, nothing)),
            share=self._share(place, team, nothing),
            beyond_noise=self._beyond_noise(place, team),
            seconds=_mean(self.facts.seconds.get(place, [])),
            flags=tuple(dict.fromkeys(flag for cell in cells for flag in cell.flags)),
            cells=tuple(cells),
        )

    def _cell(self, place: tuple[str, str], team: Team, flags: Mapping[Team, tuple[str, ...]]) -> TeamCell:
        sample = self.sample(place, team)
        return TeamCell(
            label=team_label(team, self.several),
            purifier=team[0],
            trainer=team[1],
            decoupling=team[2],
            score=cluster_bootstrap(sample.values, sample.subjects, subclusters=sample.seeds),
            survives=paired_difference(self.clean(team), sample),
            n=len(sample.values),
            flags=flags.get(team, ()),
        )

    def _share(self, place: tuple[str, str], team: Team, nothing: Team) -> Estimate | None:
        """The part of the effect that survives: one minus what the red team won back."""
        if team == nothing or place[0] == CLEAN:
            return None
        won = recovered(self.sample(place, nothing), self.sample(place, team), self.clean(team)).share
        if won is None:
            return None
        return Estimate(1 - won.estimate, 1 - won.high, 1 - won.low, won.clusters, won.level, won.over)

    def _beyond_noise(self, place: tuple[str, str], team: Team) -> Estimate | None:
        noise = self.sample((RANDOM_NOISE, place[1]), team)
        if place[0] in BASELINES or not len(noise.values):
            return None
        return paired_difference(noise, self.sample(place, team))

    def _flags(self, place: tuple[str, str]) -> dict[Team, tuple[str, ...]]:
        """The red flags of a protection's arms, by red team; those of the clean arms are everybody's."""
        found: dict[Team, list[str]] = {team: [] for team in self.teams[place]}
        if place[0] in BASELINES:
            return {}
        for trainer in dict.fromkeys(team[1] for team in found):
            names = self._names(place, trainer)
            for flag in run_checks(self._run(place, names)):
                self._take(flag, names, found)
        for team, flags in found.items():
            for cell in self.teams[place][team]:
                self.results.flags[cell] = tuple(dict.fromkeys(flags))
        return {team: tuple(dict.fromkeys(flags)) for team, flags in found.items()}

    def _names(self, place: tuple[str, str], trainer: str) -> dict[str, tuple[tuple[str, str], Team]]:
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

    def _run(self, place: tuple[str, str], names: Mapping[str, tuple[tuple[str, str], Team]]) -> Run:
        cells = {name: list(self.teams.get(where, {}).get(team, ())) for name, (where, team) in names.items()}
        method = self.choices[place[0]][0].name
        surrogate = self.config.suite if "backbone" in registry.describe("protect", method).method.needs else None
        metrics = (*self.config.metrics, "fidelity")
        return Run(
            scores=_Scores(self.results, cells),
            arms=tuple(self._summary(name, *where) for name, where in names.items() if cells[name]),
            budget=Budget.of_255(float(place[1])),
            metrics={k: v for m in metrics for k, v in registry.describe("metrics", m).method.scores.items()},
            held_out=self.held_out,
            references=self.references,
            surrogate=surrogate,
            victim=self.config.suite,
            strangers=self.strangers,
        )

    def _summary(self, name: str, place: tuple[str, str], team: Team) -> Summary:
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

    def _take(
        self, flag: Flag, names: Mapping[str, tuple[tuple[str, str], Team]], found: dict[Team, list[str]]
    ) -> None:
        """Give a flag to the team whose arm it names; to all where it speaks of the baselines."""
        _, team = names.get(flag.arm, (None, None))
        mine = [team] if team in found and flag.arm.startswith(f"{PROTECTED}+") else list(found)
        for each in mine:
            found[each].append(flag.anchor)


def _manifests(arms: Iterable[Arm], store: Store) -> list[Artifact]:
    nodes = {node.key: node for arm in arms for node in (*arm.targets, arm.model) if node}
    return [found for key in nodes if (found := store.find(key))]


def _seconds(artifacts: Iterable[Artifact]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for each in artifacts:
        seconds[each.manifest.stage] = round(seconds.get(each.manifest.stage, 0.0) + each.manifest.wall_seconds, 1)
    return seconds


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 2) if values else 0.0


def _number(interval: Estimate) -> float:
    return float("-inf") if isnan(interval.estimate) else interval.estimate
