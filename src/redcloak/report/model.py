"""The report as data: everything ``report.html`` says, as ``report.json`` stores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from redcloak.api import Flag, Score
from redcloak.config import Strict
from redcloak.parsing import read_versioned
from redcloak.report.comparisons import differences, measured_by, one_by_one
from redcloak.report.names import CLEAN, PRIMARY, PROTECTED, RANDOM_NOISE, RED_TEAM, UNTUNED
from redcloak.report.table import Scores, Source
from redcloak.stats import Comparison, Estimate, Recovery, Sample, cluster_bootstrap, recovered

__all__ = [
    "CLEAN",
    "PLOTTED",
    "PRIMARY",
    "PROTECTED",
    "RANDOM_NOISE",
    "RED_TEAM",
    "UNTUNED",
    "Arm",
    "ArmRow",
    "Cell",
    "MethodUsed",
    "Report",
    "Verdict",
    "Word",
    "read_report",
    "recoveries",
    "summarise",
]

SCHEMA_VERSION = 1
PLOTTED = (PRIMARY, "quality")
NUMBERS = ("estimate", "low", "high", "p", "adjusted", "rank_biserial", "cliffs_delta", "detectable")


def _undefined(value: Any) -> Any:
    """Read what JSON has no number for: null is written for NaN and becomes NaN again."""
    if not isinstance(value, Mapping):
        return value
    return {name: nan if each is None and name in NUMBERS else _undefined(each) for name, each in value.items()}


StoredEstimate = Annotated[Estimate, BeforeValidator(_undefined)]
StoredComparison = Annotated[Comparison, BeforeValidator(_undefined)]
StoredRecovery = Annotated[Recovery, BeforeValidator(_undefined)]
Word = Literal["holds", "does_not_hold", "undecided", "no_effect"]


class Arm(Strict):
    """One path through the audit: what was done to the photos, and how the model was trained on them."""

    name: str = Field(min_length=1, description="untuned, clean, random_noise, protected, protected+jpeg, ...")
    title: str = Field(min_length=1, description="a few words, for tables and figures")
    words: str = Field("", description="one sentence on what this arm shows")
    protection: str | None = None
    budget: float | None = Field(None, description="L_inf radius in 8-bit steps")
    purifiers: tuple[str, ...] = ()
    cdl: bool = False
    purifier_steps: int | None = Field(None, description="largest change by the purifiers, in 8-bit steps")
    lens_gradient: float | None = Field(None, ge=0, description="share of the gradient that passed the purifier")
    wall_seconds: float = Field(0.0, ge=0)

    @property
    def treated(self) -> bool:
        """Whether this arm tries to undo a protection."""
        return self.protection is not None and (bool(self.purifiers) or self.cdl)


class Cell(Strict):
    """One number of the table: its interval, the pictures behind it, and those where it is undefined."""

    interval: StoredEstimate
    n: int = Field(ge=0, description="pictures with a defined value")
    undefined: int = Field(0, ge=0)

    @property
    def empty(self) -> bool:
        """Whether there is no number at all."""
        return isnan(self.interval.estimate)


class ArmRow(Strict):
    """One arm's numbers, metric -> cell: for the pictures its model draws, for the photos it learnt from."""

    arm: str
    generated: dict[str, Cell]
    photos: dict[str, Cell]
    recovery: StoredRecovery | None = Field(None, description="share of the protection's effect won back")
    against: str = Field("", description="the arm that this one is compared with")
    comparison: StoredComparison | None = Field(None, description="this arm minus that one, in the verdict's score")
    one_by_one: dict[str, dict[str, StoredEstimate]] = Field(
        default_factory=dict, description="metric -> subject (or seed, of a single subject) -> its own number"
    )

    def pictures(self, source: Source) -> int:
        """How many pictures of one source were scored."""
        cells = self.generated if source == "generated" else self.photos
        return max((cell.n + cell.undefined for cell in cells.values()), default=0)


class Verdict(Strict):
    """The answer: a machine word, one sentence, what its interval speaks of, and that interval.

    ``interval`` is the identity that the protection took: clean minus protected, in units of ``metric``.
    """

    word: Word
    sentence: str
    scope: str
    metric: str
    interval: StoredEstimate

    def __str__(self) -> str:
        """The sentence and its scope."""
        return f"{self.sentence} {self.scope}".strip()


class MethodUsed(Strict):
    """A method or model behind the numbers: whose it is and what it may be used for."""

    kind: str
    name: str
    title: str
    cite: str
    license: str
    free: bool = Field(True, description="whether it may be used for every purpose")


class Report(Strict):
    """A finished audit. Pictures are not kept here: the page embeds them."""

    schema_version: int = SCHEMA_VERSION
    redcloak_version: str
    created: str = Field("", description="UTC, ISO 8601")
    subject: str
    verdict: Verdict
    command: str = Field("", description="what to run to make this report again")
    protocol: str = Field("", description="the shipped protocol it follows, and what was changed of it")
    config: dict[str, Any]
    arms: tuple[Arm, ...] = Field(min_length=1)
    metrics: dict[str, Score]
    rows: tuple[ArmRow, ...]
    flags: tuple[Flag, ...] = ()
    methods: tuple[MethodUsed, ...] = ()
    wall_seconds: dict[str, float] = Field(default_factory=dict, description="stage -> seconds")
    libraries: dict[str, str] = Field(default_factory=dict)

    def to_json(self) -> str:
        """The text of ``report.json``."""
        return self.model_dump_json(indent=2) + "\n"


def read_report(path: Path) -> Report:
    """Read ``report.json``; a :class:`UserError` names the file and the field that is wrong."""
    return read_versioned(
        Report, path, SCHEMA_VERSION, what="the report ", by="redcloak audit", anew="write the report again"
    )


def summarise(scores: Scores, arms: Sequence[Arm], metrics: Mapping[str, Score]) -> tuple[ArmRow, ...]:
    """The table of arms, in the order of ``arms``: an interval for each metric an arm was scored with."""
    won_back, compared = recoveries(scores, arms), differences(scores, arms)
    return tuple(
        ArmRow(
            arm=arm.name,
            generated=_cells(scores, arm.name, "generated", metrics),
            photos=_cells(scores, arm.name, "photos", metrics),
            recovery=won_back.get(arm.name),
            against=(measured_by(arm) or "") if arm.name in compared else "",
            comparison=compared.get(arm.name),
            one_by_one={metric: one_by_one(scores.sample(arm.name, metric)) for metric in PLOTTED if metric in metrics},
        )
        for arm in arms
    )


def recoveries(scores: Scores, arms: Sequence[Arm], metric: str = PRIMARY) -> dict[str, Recovery]:
    """For each arm that treats a protection, how much of the protection's effect it won back."""
    protected, clean = scores.sample(PROTECTED, metric), scores.sample(CLEAN, metric)
    found = {arm.name: recovered(protected, scores.sample(arm.name, metric), clean) for arm in arms if arm.treated}
    return {name: recovery for name, recovery in found.items() if recovery.loss.clusters}


def _cells(scores: Scores, arm: str, source: Source, metrics: Mapping[str, Score]) -> dict[str, Cell]:
    samples = {name: scores.sample(arm, name, source) for name in metrics}
    return {
        name: Cell(
            interval=_interval(sample, metrics[name]),
            n=int(np.isfinite(sample.values).sum()),
            undefined=int((~np.isfinite(sample.values)).sum()),
        )
        for name, sample in samples.items()
        if len(sample.values)
    }


def _interval(sample: Sample, score: Score) -> Estimate:
    """Pictures of one set are not drawn again for a score of sets: none has a value that another would not change."""
    drawn = sample.sets if score.of_set else sample
    found = cluster_bootstrap(drawn.values, drawn.subjects, subclusters=drawn.seeds)
    if score.of_set and found.over == "pictures":
        found = replace(found, over="sets")
    return found.within(score.low, score.high)
