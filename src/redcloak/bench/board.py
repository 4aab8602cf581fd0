"""The leaderboard as data: protections by what survives the strongest red team, never by what survives one purifier.

What a protection takes is paired by subject and seed: identity of the model that was trained on clean photos, minus
that of the model trained on protected ones. A *red team* is a purifier, a trainer and whether it decouples; the
strongest is the one that leaves the protection least, and doing nothing is one of them. A row that has not met every
red team of the matrix with everybody is not ranked. ``ranking`` reads it off the results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from redcloak.bench.axes import NOTHING, PLAIN
from redcloak.config import Strict
from redcloak.errors import UserError
from redcloak.parsing import read_versioned
from redcloak.report.model import StoredEstimate

SCHEMA_VERSION = 2  # 2: what a row lacks, critical flags, what ran; the interval covers that the strongest was picked
Team = tuple[str, str, str]


class TeamCell(Strict):
    """What one red team is left with, and what of the protection survives it."""

    label: str = Field(description="codesr + cdl; nothing where nothing is done")
    purifier: str
    trainer: str
    decoupling: str
    score: StoredEstimate
    survives: StoredEstimate
    n: int
    flags: tuple[str, ...] = ()
    critical: tuple[str, ...] = Field((), description="the flags that void the number")
    ran: dict[str, Any] = Field(default_factory=dict, description="every method with its resolved settings and version")

    @property
    def team(self) -> Team:
        """What the red team did: purifier, trainer, decoupling."""
        return self.purifier, self.trainer, self.decoupling


class Standing(Strict):
    """One row of the leaderboard: a protection at a budget."""

    protection: str
    budget: str
    survives: StoredEstimate = Field(
        description="of the identity it takes, after the strongest red team; the interval covers that it was picked"
    )
    at: int = Field(ge=0, description="the cell of the strongest red team")
    missing: tuple[str, ...] = Field((), description="arms that it lacks, such as codesr + cdl (3 of 12)")
    untreated: StoredEstimate = Field(description="the identity it takes where nothing is done against it")
    share: StoredEstimate | None = Field(None, description="survives / untreated; None where it took nothing certain")
    beyond_noise: StoredEstimate | None = Field(None, description="what random noise does not take under that team")
    seconds: float = Field(ge=0, description="wall time for the photos of one subject")
    flags: tuple[str, ...] = ()
    cells: tuple[TeamCell, ...]

    @property
    def complete(self) -> bool:
        """Whether it met every red team of the matrix with every subject and seed; only then it can be ranked."""
        return not self.missing

    @property
    def strongest(self) -> TeamCell:
        """The red team that leaves the protection least."""
        return self.cells[self.at]


class Failure(Strict):
    """A stage that failed."""

    label: str
    key: str
    reason: str


class Board(Strict):
    """Everything the page says but its pictures, as ``board.json`` stores it."""

    schema_version: int = SCHEMA_VERSION
    redcloak_version: str
    created: str
    protocol: str
    version: int
    title: str
    suite: str
    metric: str
    higher: bool = True
    subjects: int
    photos: dict[str, str] = Field(description="subject -> digest of its photos")
    seeds: int
    arms: int
    arms_finished: int
    standings: tuple[Standing, ...]
    baselines: tuple[Standing, ...]
    failures: tuple[Failure, ...] = ()
    wall_seconds: dict[str, float] = Field(default_factory=dict)
    libraries: dict[str, str] = Field(default_factory=dict)
    config: dict[str, Any]
    of: str = Field("", description="digest of the keys that were read")

    @field_validator("config")
    @classmethod
    def _from_before(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Boards from before the field was there had seeds that were the same noise for everybody."""
        return value if "common_seeds" in value else {**value, "common_seeds": True}

    @property
    def rows(self) -> tuple[Standing, ...]:
        """Protections, then baselines."""
        return (*self.standings, *self.baselines)

    @property
    def teams(self) -> list[str]:
        """The label of every red team, in order."""
        return list({cell.label: None for row in self.rows for cell in row.cells})

    def to_json(self) -> str:
        """The text of ``board.json``."""
        return self.model_dump_json(indent=1) + "\n"

    def standing(self, protection: str, budget: str | None = None) -> Standing:
        """The row of a protection.

        Raises:
            UserError: it has none, or several budgets and none is named.
        """
        found = [row for row in self.standings if row.protection == protection and budget in (None, row.budget)]
        if len(found) == 1:
            return found[0]
        there = ", ".join(f"{row.protection}@{row.budget}" for row in self.standings)
        what = "stands at several budgets, name one" if found else "is not on this board"
        raise UserError(f"protection {protection!r}: it {what} (there are: {there}).")


def read_board(folder: Path) -> Board:
    """The board of a finished run's folder."""
    path = folder / "board.json" if folder.is_dir() else folder
    anew = "`redcloak bench report` writes it anew"
    return read_versioned(Board, path, SCHEMA_VERSION, by="redcloak bench run", anew=anew)


def kept_board(folder: Path, of: str) -> Board | None:
    """The board of a folder where it is of this format, and ``of`` these keys."""
    try:
        found = read_board(folder)
    except UserError:
        return None
    return found if found.of == of else None


def team_label(team: Team, several_trainers: bool = False) -> str:
    """A red team in words."""
    purifier, trainer, decoupling = team
    words = [word for word in (purifier, decoupling) if word not in (NOTHING, PLAIN)]
    if several_trainers and trainer != NOTHING:
        words.append(trainer)
    return " + ".join(words) or "nothing"
