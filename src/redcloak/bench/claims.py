"""Claims: what is said to survive, in a folder that anybody can challenge with a run that lowers it.

A claim is one JSON file: the protection with its settings, the budget, the protocol, and the identity that survived
the strongest red team. A challenge is a finished run of the same protection at the same budget on the same suite whose
strongest red team leaves less; it is added to the file, and the lowest number stands, as on RobustBench.

Cite: Croce et al., RobustBench: a standardized adversarial robustness benchmark, NeurIPS 2021 (datasets track).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from math import isnan
from pathlib import Path
from typing import Any

from pydantic import Field

from redcloak.bench.board import Board, Standing, read_board
from redcloak.config import Strict, read_versioned
from redcloak.errors import UserError
from redcloak.report.model import StoredEstimate
from redcloak.report.table import write_whole

SCHEMA_VERSION = 1


class Evidence(Strict):
    """A number with what it comes from."""

    survives: StoredEstimate
    red_team: str = Field(min_length=1)
    protocol: str = Field(description="name and version")
    subjects: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    created: str
    redcloak_version: str
    results: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of results.parquet")
    by: str = Field("", description="who ran it, and where the run can be had")
    purifier: dict[str, Any] = Field(description="the red team's purifier as the matrix has it")


class Claim(Strict):
    """A claim and the challenges that lowered it, in order; the last one stands."""

    schema_version: int = SCHEMA_VERSION
    name: str = Field(min_length=1)
    protection: dict[str, Any] = Field(description="the protection as the matrix has it: label and chain")
    budget: float = Field(ge=1, le=64, description="/255, L_inf")
    suite: str
    metric: str
    claimed: Evidence
    challenges: tuple[Evidence, ...] = ()

    @property
    def stands(self) -> Evidence:
        """The evidence that counts: the lowest number shown so far."""
        return self.challenges[-1] if self.challenges else self.claimed

    def check(self, where: str) -> None:
        """See that every challenge lowered what stood before it.

        Raises:
            UserError: one did not, or the file is called otherwise than the claim.
        """
        numbers = [each.survives.estimate for each in (self.claimed, *self.challenges)]
        if any(isnan(number) for number in numbers):
            raise UserError(f"{where}: survives is not a number; claim a protection that was scored.")
        for before, after in pairwise(numbers):
            if after >= before:
                raise UserError(f"{where}: a challenge of {after:.3f} does not lower {before:.3f}; remove it.")


def read_claim(path: Path) -> Claim:
    """Read and check one claim."""
    anew = "write the claim with this redcloak"
    claim = read_versioned(Claim, path, SCHEMA_VERSION, what="the claim ", by="redcloak bench claim", anew=anew)
    claim.check(str(path))
    if claim.name != path.stem:
        raise UserError(f"{path}: the claim is called {claim.name!r}; name the file {claim.name}.json.")
    return claim


def claims(folder: Path) -> Iterator[Claim]:
    """Every claim of a folder, checked, by name."""
    return (read_claim(path) for path in sorted(folder.glob("*.json")))


def make(run: Path, protection: str, budget: str | None, name: str, folder: Path, by: str = "") -> Path:
    """Claim what survived in a finished run.

    Raises:
        UserError: the run has no such protection, it was not scored, or there is a claim of that name.
    """
    path = folder / f"{name}.json"
    if path.exists():
        raise UserError(f"{path}: there is a claim of that name; challenge it with --challenge, or choose another.")
    board = read_board(run)
    row = board.standing(protection, budget)
    claim = Claim(
        name=name,
        protection=_protection(board, row.protection),
        budget=float(row.budget),
        suite=board.suite,
        metric=board.metric,
        claimed=_evidence(run, board, row, by),
    )
    claim.check(str(path))
    folder.mkdir(parents=True, exist_ok=True)
    return write_whole(path, _text(claim).encode())


def challenge(run: Path, path: Path, by: str = "") -> Claim:
    """Lower a claim with a finished run of the same protection, budget and suite.

    Raises:
        UserError: the run is of something else, has red flags that are critical, or does not lower the claim.
    """
    claim, board = read_claim(path), read_board(run)
    if (board.suite, board.metric) != (claim.suite, claim.metric):
        raise UserError(
            f"{path}: the claim is of suite {claim.suite!r} by {claim.metric!r}, the run of {board.suite!r} by "
            f"{board.metric!r}; run the claim's own."
        )
    evidence = _evidence(run, board, _row(claim, board, path), by)
    before = claim.stands.survives.estimate
    if not evidence.survives.estimate < before:
        raise UserError(
            f"{path}: {before:.3f} stands, and this run leaves {evidence.survives.estimate:.3f}; a challenge lowers it."
        )
    lowered = claim.model_copy(update={"challenges": (*claim.challenges, evidence)})
    write_whole(path, _text(lowered).encode())
    return lowered


def _row(claim: Claim, board: Board, path: Path) -> Standing:
    """The row of the claimed protection: the same method with the same settings, whatever it is labelled."""
    for row in board.standings:
        same = _protection(board, row.protection)["chain"] == claim.protection["chain"]
        if same and float(row.budget) == claim.budget:
            return row
    raise UserError(
        f"{path}: the run has no {claim.protection['label']!r} at {claim.budget:g}/255 with the claim's settings; "
        "run that protection."
    )


def _protection(board: Board, label: str) -> dict[str, Any]:
    return next(dict(each) for each in board.config["protections"] if each["label"] == label)


def _evidence(run: Path, board: Board, row: Standing, by: str) -> Evidence:
    results = (run if run.is_dir() else run.parent) / "results.parquet"
    if not results.is_file():
        raise UserError(f"{results}: it is missing; a claim rests on it. `redcloak bench report` writes it.")
    team = row.strongest
    known = {each["label"]: dict(each) for each in board.config["purifiers"]}
    return Evidence(
        survives=team.survives,
        red_team=team.label,
        protocol=f"{board.protocol} v{board.version}",
        subjects=tuple(each["label"] for each in board.config["subjects"]),
        seeds=tuple(board.config["seeds"]),
        created=board.created,
        redcloak_version=board.redcloak_version,
        results=hashlib.sha256(results.read_bytes()).hexdigest(),
        by=by,
        purifier=known.get(team.purifier, {"label": team.purifier, "chain": []}),
    )


def _text(claim: Claim) -> str:
    return claim.model_dump_json(indent=1) + "\n"
