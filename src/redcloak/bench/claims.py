"""Claims: what is said to survive, in a folder that anybody can challenge with a run that lowers it.

A claim is one JSON file: the protection with its resolved settings and version, the budget, and the score (identity)
that survived the strongest red team, with all that this red team was. A challenge is a finished run of the same
protection at the same budget on the same suite whose strongest red team leaves less; it is added to the file, and the
lowest number stands, as on RobustBench.

So that neither luck, choice nor neglect lowers a claim, a challenge is refused (:func:`objection`) unless its people
and seeds are those of the claim, its trainer learns people as well as the claim's, and what survives is lower by its
whole interval. A run that is not complete, or has critical red flags, is evidence of nothing.

Cite: Croce et al., RobustBench: a standardized adversarial robustness benchmark, NeurIPS 2021 (datasets track).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import Any

from pydantic import Field

from redcloak.bench.axes import NOTHING, PLAIN
from redcloak.bench.board import Board, Standing, read_board
from redcloak.bench.compare import changes
from redcloak.config import Strict
from redcloak.errors import UserError
from redcloak.parsing import read_versioned
from redcloak.registry import describe
from redcloak.report.model import CLEAN, StoredEstimate
from redcloak.report.table import write_whole

SCHEMA_VERSION = 2  # 2: methods with resolved settings and versions, clean scores, digests of photos
DRAWN = ("prompts", "images_per_prompt", "sampling_steps", "guidance", "class_images")


class Evidence(Strict):
    """A number with what it comes from."""

    survives: StoredEstimate = Field(description="its interval covers that the strongest red team was picked")
    clean: StoredEstimate = Field(description="identity of models of that trainer on clean photos")
    red_team: str = Field(min_length=1)
    picked_from: int = Field(ge=1, description="red teams, of which this is the strongest")
    ran: dict[str, Any] = Field(description="purify, personalize, decoupling: resolved settings, versions, weights")
    drawn: dict[str, Any] = Field(description="prompts, pictures of each, sampling steps, guidance, class images")
    protocol: str = Field(description="name and version")
    subjects: dict[str, str] = Field(min_length=1, description="label -> digest of the photos")
    seeds: tuple[int, ...] = Field(min_length=1)
    common_seeds: bool = Field(
        True, description="a seed was the same noise for every subject; so it was before the field"
    )
    created: str
    redcloak_version: str
    results: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of results.parquet")
    by: str = Field("", description="who ran it, and where the run can be had")

    @property
    def learnt(self) -> dict[str, Any]:
        """How models were trained and drawn from, but for decoupling, which is the red team's."""
        return {"trainer": self.ran.get("personalize"), "drawn": self.drawn}


class Claim(Strict):
    """A claim and the challenges that lowered it, in order; the last one stands."""

    schema_version: int = SCHEMA_VERSION
    name: str = Field(min_length=1)
    label: str = Field(description="of the protection")
    protection: dict[str, Any] = Field(description="the method with its resolved settings, version and weights")
    budget: float = Field(ge=1, le=64, description="/255, L_inf")
    suite: str
    metric: str
    measured: dict[str, Any] = Field(description="the method that gives the metric: settings, version and weights")
    claimed: Evidence
    challenges: tuple[Evidence, ...] = ()

    @property
    def stands(self) -> Evidence:
        """The evidence that counts: the lowest number shown so far."""
        return self.challenges[-1] if self.challenges else self.claimed

    def check(self, where: str) -> None:
        """See that the claim has a number, and that every challenge lowered what stood before it.

        Raises:
            UserError: what is wrong.
        """
        if isnan(self.claimed.survives.low) or isnan(self.claimed.clean.low):
            raise UserError(f"{where}: there is no number with an interval; claim what was scored with several runs.")
        for count, each in enumerate(self.challenges):
            before = self.model_copy(update={"challenges": self.challenges[:count]})
            if reason := objection(before, each):
                raise UserError(f"{where}: challenge {count + 1}: {reason}")


def objection(claim: Claim, evidence: Evidence) -> str | None:
    """Why evidence does not lower a claim; None where it does."""
    first, stands = claim.claimed, claim.stands.survives.estimate
    for mine, theirs, said in ((first, evidence, "the claim"), (evidence, first, "the challenge")):
        if what := _beyond(mine, theirs):
            return f"{said} rests on {what}, too; run the claim's subjects and seeds, and no others."
    if evidence.common_seeds != first.common_seeds:
        said = str(first.common_seeds).lower()
        return f"its seeds are other noise: the claim has common_seeds: {said}; run it so."
    if evidence.learnt != first.learnt and not evidence.clean.estimate >= first.clean.low:
        return (
            f"from clean photos its models show {evidence.clean} of identity, the claim's {first.clean}; "
            "take a trainer that learns as well, or the claim's own."
        )
    if not evidence.survives.high < stands:
        return f"{stands:.3f} stands, and this run leaves {evidence.survives}; a challenge is lower by its interval."
    return None


def _beyond(one: Evidence, other: Evidence) -> str:
    """The photos or else the seeds of one that the other lacks."""
    people = [label for label, digest in one.subjects.items() if digest not in other.subjects.values()]
    seeds = [str(seed) for seed in one.seeds if seed not in other.seeds]
    if people:
        return f"the photos of {', '.join(people)}"
    return f"seed {', '.join(seeds)}" if seeds else ""


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
        UserError: the run has no such protection, it is not complete, was not scored or has critical red flags, or
            there is a claim of that name.
    """
    path = folder / f"{name}.json"
    if path.exists():
        raise UserError(f"{path}: there is a claim of that name; challenge it with --challenge, or choose another.")
    board = read_board(run)
    row = board.standing(protection, budget)
    claim = Claim(
        name=name,
        label=row.protection,
        protection=_method(row),
        budget=float(row.budget),
        suite=board.suite,
        metric=board.metric,
        measured=_measured(row, board.metric),
        claimed=_evidence(run, board, row, by),
    )
    claim.check(str(path))
    folder.mkdir(parents=True, exist_ok=True)
    return write_whole(path, _text(claim).encode())


def challenge(run: Path, path: Path, by: str = "") -> Claim:
    """Lower a claim with a finished run of the same protection, budget and suite.

    Raises:
        UserError: the run is of something else, is not complete, has critical red flags, or does not lower the claim.
    """
    claim, board = read_claim(path), read_board(run)
    if (board.suite, board.metric) != (claim.suite, claim.metric):
        raise UserError(
            f"{path}: the claim is of suite {claim.suite!r} by {claim.metric!r}, the run of {board.suite!r} by "
            f"{board.metric!r}; run the claim's own."
        )
    row = _row(claim, board, path)
    if differs := next(changes(claim.measured, _measured(row, claim.metric)), None):
        raise UserError(f"{path}: {claim.metric} is not measured as in the claim: {_told(differs)}; measure it so.")
    evidence = _evidence(run, board, row, by)
    if reason := objection(claim, evidence):
        raise UserError(f"{path}: {reason}")
    lowered = claim.model_copy(update={"challenges": (*claim.challenges, evidence)})
    write_whole(path, _text(lowered).encode())
    return lowered


def _row(claim: Claim, board: Board, path: Path) -> Standing:
    """The row of the claimed protection: the same method, settings, version and weights, whatever it is labelled."""
    rows = [row for row in board.standings if float(row.budget) == claim.budget]
    for row in rows:
        if _method(row) == claim.protection:
            return row
    near = next((_method(row) for row in rows if _method(row).get("name") == claim.protection["name"]), None)
    differs = next(changes(claim.protection, near), None) if near else None
    what = f" ({_told(differs)})" if differs else ""
    raise UserError(
        f"{path}: the run has no {claim.label!r} at {claim.budget:g}/255 with the claim's settings{what}; "
        "run that protection."
    )


def _told(difference: tuple[str, Any, Any]) -> str:
    field, claim, run = difference
    return f"{field} is {claim!r} in the claim, {run!r} in the run"


def _method(row: Standing) -> dict[str, Any]:
    """The protection of a row as it ran; nothing where none of its arms is finished."""
    return next((dict(cell.ran["protect"]) for cell in row.cells if "protect" in cell.ran), {})


def _measured(row: Standing, metric: str) -> dict[str, Any]:
    """The method that gives a metric, as it ran."""
    methods: dict[str, Any] = next((cell.ran["metrics"] for cell in row.cells if "metrics" in cell.ran), {})
    gives = (dict(each) for name, each in methods.items() if metric in describe("metrics", name).method.scores)
    return next(gives, {})


def _evidence(run: Path, board: Board, row: Standing, by: str) -> Evidence:
    results = (run if run.is_dir() else run.parent) / "results.parquet"
    if not results.is_file():
        raise UserError(f"{results}: it is missing; a claim rests on it. `redcloak bench report` writes it.")
    where, team = f"{run}: {row.protection} at {row.budget}/255", row.strongest
    if not row.complete:
        raise UserError(f"{where} has not met everybody ({', '.join(row.missing)}); finish the run, then claim.")
    if team.critical:
        raise UserError(f"{where}: its number is void by {', '.join(team.critical)}; see docs/red-flags.md.")
    return Evidence(
        survives=row.survives,
        clean=_clean(board, team.trainer),
        red_team=team.label,
        picked_from=len(row.cells),
        ran={name: team.ran.get(name) for name in ("purify", "personalize", "decoupling")},
        drawn={name: board.config[name] for name in DRAWN},
        protocol=f"{board.protocol} v{board.version}",
        subjects=board.photos,
        seeds=tuple(board.config["seeds"]),
        common_seeds=board.config["common_seeds"],
        created=board.created,
        redcloak_version=board.redcloak_version,
        results=hashlib.sha256(results.read_bytes()).hexdigest(),
        by=by,
    )


def _clean(board: Board, trainer: str) -> StoredEstimate:
    """What models of a trainer show of people from clean photos, with nothing done to them."""
    cells = (cell for row in board.baselines if row.protection == CLEAN for cell in row.cells)
    return next(cell.score for cell in cells if cell.team == (NOTHING, trainer, PLAIN))


def _text(claim: Claim) -> str:
    return claim.model_dump_json(indent=1) + "\n"
