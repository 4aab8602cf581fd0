"""Read the leaderboard off the results of a matrix: every protection under every red team, with its red flags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from math import isnan

from redcloak import __version__
from redcloak.bench.axes import NOTHING, PLAIN
from redcloak.bench.board import Board, Failure, Standing, Team, TeamCell, team_label
from redcloak.bench.facts import Facts, manifests, ran, seconds
from redcloak.bench.flags import Flags
from redcloak.bench.grid import BASELINES, NO_BUDGET, Arm, Matrix
from redcloak.bench.lacking import Lacking
from redcloak.bench.results import Place, Results, by, teams_of
from redcloak.report.model import CLEAN, RANDOM_NOISE, UNTUNED
from redcloak.runtime.store import Store
from redcloak.stats import Estimate, Sample, cluster_bootstrap, least_difference, paired_difference, recovered


def board(matrix: Matrix, results: Results, store: Store, arms: list[Arm], failures: Iterable[Failure]) -> Board:
    """Read the leaderboard off the results of the finished ``arms``; red flags are written into ``results.flags``.

    Rows that lack nothing come first, by what survives.
    """
    ranking = _Ranking(matrix, results, arms, Facts.of(arms, store))
    places = [place for place in ranking.teams if place[0] != UNTUNED]
    standings = [ranking.standing(place) for place in places if place[0] not in BASELINES]
    baselines = [ranking.standing(place) for place in places if place[0] in BASELINES]
    results.flags = ranking.flags.cells()
    found = manifests(arms, store)
    return Board(
        redcloak_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        protocol=results.protocol,
        version=results.version,
        title=matrix.config.title,
        suite=results.suite,
        metric=matrix.config.ranked_by,
        subjects=len(matrix.config.subjects),
        photos=matrix.photos,
        seeds=len(matrix.config.seeds),
        arms=len(matrix.arms),
        arms_finished=len(arms),
        standings=tuple(sorted(standings, key=lambda row: (not row.complete, -_number(row.survives)))),
        baselines=tuple(baselines),
        failures=tuple(failures),
        wall_seconds=seconds(found),
        libraries=found[0].manifest.libraries if found else {},
        config=matrix.config.model_dump(mode="json"),
    )


class _Ranking:
    """The standings of the protections of one matrix."""

    def __init__(self, matrix: Matrix, results: Results, arms: Sequence[Arm], facts: Facts) -> None:
        self.results, self.facts = results, facts
        self.metric = matrix.config.ranked_by
        self.several = len(matrix.config.trainers) > 1
        self.teams = teams_of(matrix)
        self.arms = by(arms, lambda arm: (arm.axes[1:3], arm.axes[3:6]))
        self.lacking = Lacking(matrix, results)
        self.flags = Flags(matrix, results, facts, self.teams)

    def sample(self, place: Place, team: Team) -> Sample:
        """The score under one red team, over all prompts."""
        return self.results.over(self.teams.get(place, {}).get(team, ()), self.metric)

    def clean(self, team: Team) -> Sample:
        """The reference of a red team: its trainer on clean photos, with nothing done to them."""
        return self.sample((CLEAN, NO_BUDGET), (NOTHING, team[1], PLAIN))

    def standing(self, place: Place) -> Standing:
        """One row: every red team, and the one that leaves least."""
        teams = list(self.teams[place])
        cells = [self._cell(place, team) for team in teams]
        survives, team = self._strongest(place, cells)
        nothing = (NOTHING, team[1], PLAIN)
        return Standing(
            protection=place[0],
            budget=place[1],
            survives=survives,
            at=teams.index(team),
            missing=self.lacking.words(place),
            untreated=paired_difference(self.clean(team), self.sample(place, nothing)),
            share=self._share(place, team, nothing),
            beyond_noise=self._beyond_noise(place, team),
            seconds=_mean(self.facts.seconds.get(place, [])),
            flags=tuple(dict.fromkeys(flag for cell in cells for flag in cell.flags)),
            cells=tuple(cells),
        )

    def _strongest(self, place: Place, cells: Sequence[TeamCell]) -> tuple[Estimate, Team]:
        """What survives the strongest red team, and which that is: of those that lack nothing, where there are any."""
        scored = [cell.team for cell in cells if not isnan(cell.survives.estimate)]
        whole = [cell.team for cell in cells if not self.lacking.arms(place, cell.team)]
        teams = whole or scored or [cell.team for cell in cells]
        survives, at = least_difference([(self.clean(team), self.sample(place, team)) for team in teams])
        return survives, teams[at or 0]

    def _cell(self, place: Place, team: Team) -> TeamCell:
        sample = self.sample(place, team)
        return TeamCell(
            label=team_label(team, self.several),
            purifier=team[0],
            trainer=team[1],
            decoupling=team[2],
            score=cluster_bootstrap(sample.values, sample.subjects, subclusters=sample.seeds),
            survives=paired_difference(self.clean(team), sample),
            n=len(sample.values),
            flags=self.flags.of(place, team),
            critical=self.flags.critical(place, team),
            ran=ran(self.arms.get((place, team), ())),
        )

    def _share(self, place: Place, team: Team, nothing: Team) -> Estimate | None:
        """The part of the effect that survives: one minus what the red team won back."""
        if team == nothing or place[0] == CLEAN:
            return None
        won = recovered(self.sample(place, nothing), self.sample(place, team), self.clean(team)).share
        if won is None:
            return None
        return Estimate(1 - won.estimate, 1 - won.high, 1 - won.low, won.clusters, won.level, won.over)

    def _beyond_noise(self, place: Place, team: Team) -> Estimate | None:
        noise = self.sample((RANDOM_NOISE, place[1]), team)
        if place[0] in BASELINES or not len(noise.values):
            return None
        return paired_difference(noise, self.sample(place, team))


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 2) if values else 0.0


def _number(interval: Estimate) -> float:
    return float("-inf") if isnan(interval.estimate) else interval.estimate
