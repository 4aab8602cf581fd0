"""``redcloak bench``: a matrix of arms, planned, run, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redcloak.cli import options
from redcloak.cli.text import aligned, document
from redcloak.errors import UserError

if TYPE_CHECKING:
    from redcloak.bench.board import Board
    from redcloak.bench.care import Why
    from redcloak.bench.config import MatrixConfig
    from redcloak.bench.grid import Matrix
    from redcloak.bench.plan import MatrixPlan
    from redcloak.bench.results import Cell
    from redcloak.store import Store

app = typer.Typer(
    name="bench",
    help="A matrix: subjects x protections x budgets x purifiers x trainers x prompts x seeds.",
    epilog="Start with: redcloak bench plan quick",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Named = Annotated[str, typer.Argument(metavar="MATRIX", help="A protocol (quick, tiny, adaptive, ...) or a YAML file.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="The run's folder; by default bench-PROTOCOL.")
]
Kept = Annotated[
    Path | None, typer.Option("--store", metavar="DIR", help="Where results are kept; runs may share it. [OUT/store]")
]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="AXIS=LABEL,...", help="Keep only arms that match, as in protection=aspl. Repeatable."),
]
Workers = Annotated[int | None, typer.Option(metavar="N", help="Stages that run at the same time.")]


def matrix_config(
    name: str, only: list[str] | None = None, device: str | None = None, workers: int | None = None
) -> MatrixConfig:
    """The matrix with what the flags change."""
    from redcloak.bench.config import load

    return load(name, only=filters(only), device=device, workers=workers)


def filters(texts: list[str] | None) -> list[dict[str, list[str]]] | None:
    """``["protection=aspl,purifier=jpeg"]`` -> one filter; an axis that is named twice takes either."""
    if not texts:
        return None
    import re

    from redcloak.bench.config import AXES

    found = []
    for text in texts:
        axes: dict[str, list[str]] = {}
        for part in re.split(rf",(?=(?:{'|'.join(AXES)})=)", text):  # labels may hold commas, too
            axis, equals, label = part.partition("=")
            if not equals:
                raise UserError(f"--only {text!r}: write it as AXIS=LABEL,AXIS=LABEL.")
            axes.setdefault(axis.strip(), []).append(label.strip())
        found.append(axes)
    return found


def folder(config: MatrixConfig, out: Path | None) -> Path:
    """The folder of a run."""
    return out or Path(f"bench-{config.protocol}")


def expanded(config: MatrixConfig, out: Path) -> Matrix:
    """The arms of a matrix; what is known of photos is kept in the run's folder, where there is one."""
    from redcloak.bench.digests import Digests
    from redcloak.bench.grid import Matrix

    return Matrix.of(config, Digests(out / "photos.json"))


def existing(store: Path) -> Store | None:
    """The store to look into: looking makes none."""
    from redcloak.store import Store

    return Store(store, read_only=True) if store.is_dir() else None


@app.command()
def plan(
    matrix: Named,
    out: Out = None,
    store: Kept = None,
    only: Only = None,
    workers: Workers = None,
    json: options.Json = False,
) -> int:
    """Say what a run would do and cost; make nothing.

    Example: redcloak bench plan quick
    """
    from redcloak.bench.plan import plan as planned

    config = matrix_config(matrix, only, workers=workers)
    where = folder(config, out)
    kept = store or where / "store"
    found = planned(expanded(config, where), existing(kept), config.workers, kept)
    typer.echo(document(found.to_json()) if json else told(found))
    return 0


def told(plan: MatrixPlan) -> str:
    """The plan as a table and three lines."""
    from redcloak.cli.progress import duration

    rows = [("stage", "total", "cached", "missing", "failed", "each", "work", "memory", "disk", "known from")]
    for row in plan.rows:
        each = "?" if row.seconds_each is None else f"{row.seconds_each:.1f} s"
        memory = f"{row.memory_mb:.0f} MB" if row.memory_mb else "-"
        source = {"measured": "measured", "prior": "a guess", "unknown": "nothing"}[row.source]
        if not row.missing:
            each, memory, source = "", "", ""
        counts = (str(row.total), str(row.cached), str(row.missing), str(row.failed))
        work = duration(row.seconds) if row.missing else ""
        rows.append((row.stage, *counts, each, work, memory, size(row.bytes) if row.missing else "", source))
    return f"{plan.name}: {plan.arms} arms\n\n{aligned(rows)}\n\n{_summed(plan)}"


def _summed(plan: MatrixPlan) -> str:
    from redcloak.cli.progress import duration

    if not plan.missing:
        return "Nothing is left to run."
    guessed = any(row.missing and row.source != "measured" for row in plan.rows)
    basis = "partly guessed: nothing like it was measured in this store" if guessed else "measured in this store"
    lines = [f"About {duration(plan.elapsed)} with {plan.workers} workers ({duration(plan.seconds)} of work), {basis}."]
    there = f" of {plan.memory_there_mb / 1024:.1f} GB" if plan.memory_there_mb else ""
    if plan.memory_mb:
        over = plan.memory_there_mb and plan.memory_mb > plan.memory_there_mb
        warning = ": MORE THAN THERE IS; take fewer workers, or memory: low" if over else ""
        lines.append(f"Memory: up to {plan.memory_mb / 1024:.1f} GB for all workers{there}{warning}.")
    else:
        lines.append(f"Memory: not measured yet{there and f', the machine has{there[3:]}'}.")
    warning = ": MORE THAN IS FREE; choose another --store" if plan.disk > plan.disk_free else ""
    lines.append(f"Disk: about {size(plan.disk)} of {size(plan.disk_free)} free{warning}.")
    return "\n".join(lines)


def size(count: float) -> str:
    """``1.2 GB``, ``35 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


@app.command()
def run(
    matrix: Named,
    out: Out = None,
    store: Kept = None,
    only: Only = None,
    overwrite: Annotated[
        str,
        typer.Option(
            metavar="WORD",
            help="missing: what is not there; retry: only what failed; force: everything anew; read-only: nothing.",
        ),
    ] = "missing",
    workers: Workers = None,
    executor: Annotated[str, typer.Option(metavar="NAME", help="local, ray, or ray:ADDRESS of a cluster.")] = "local",
    device: options.Device = None,
    json: options.Json = False,
    open_: Annotated[bool, typer.Option("--open", help="Open the leaderboard in a browser.")] = False,
) -> int:
    """Make what is missing, and write the leaderboard; what fails stops nothing else and is tried again next time.

    A run that was killed goes on where it was when the same command is run again.

    Example: redcloak bench run quick
    """
    from redcloak.bench.run import WAYS, prepare
    from redcloak.cli.progress import Screen
    from redcloak.errors import unknown

    if overwrite not in WAYS:
        raise unknown("word for --overwrite", overwrite, WAYS)
    config = matrix_config(matrix, only, device, workers)
    where = folder(config, out)
    bench = prepare(expanded(config, where), where, store, overwrite == "read-only")
    with Screen(bench.plan(config.workers)) as screen:
        board = bench.run(overwrite, config.workers, executor, screen.follow)
    typer.echo(board.to_json() if json else standings(board, where), nl=not json)
    if open_:
        typer.launch((where / "leaderboard.html").absolute().as_uri())
    return 1 if board.failures else 0


@app.command()
def report(matrix: Named, out: Out = None, store: Kept = None, only: Only = None, json: options.Json = False) -> int:
    """Write the results and the leaderboard of what is there, anew.

    Example: redcloak bench report quick
    """
    from redcloak.bench.run import prepare

    config = matrix_config(matrix, only)
    where = folder(config, out)
    board = prepare(expanded(config, where), where, store, read_only=True).report(anew=True)
    typer.echo(board.to_json() if json else standings(board, where), nl=not json)
    return 0


@app.command()
def why(
    matrix: Named,
    node: Annotated[str, typer.Argument(metavar="NODE", help="A stage's label, or the beginning of its key.")],
    out: Out = None,
    store: Kept = None,
    json: options.Json = False,
) -> int:
    """Tell why a stage is in the store or not, and in which fields it differs from the nearest result that is.

    Example: redcloak bench why quick "protect: pid"
    """
    from redcloak.bench import care

    config = matrix_config(matrix)
    where = folder(config, out)
    found = care.why(care.find_node(expanded(config, where), node), needed(store or where / "store"))
    typer.echo(document(reasons_json(found)) if json else "\n".join(reasons(found)))
    return 0


@app.command()
def gc(
    matrices: Annotated[list[str], typer.Argument(metavar="MATRIX...", help="What they need is kept.")],
    out: Out = None,
    store: Kept = None,
    models: Annotated[
        bool, typer.Option("--models", help="Also personalized models whose pictures are all drawn.")
    ] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; otherwise it is only told.")] = False,
    json: options.Json = False,
) -> int:
    """Tell what the store keeps that none of these matrices needs, and delete it where --delete is given.

    Example: redcloak bench gc quick --models
    """
    from redcloak.bench import care
    from redcloak.bench.run import only_driver

    configs = [matrix_config(name) for name in matrices]
    where = folder(configs[0], out)
    kept = needed(store or where / "store", read_only=not delete)
    expansions = [expanded(config, where) for config in configs]
    found = care.garbage(kept, expansions, models)
    if delete:
        with only_driver(where):
            care.collect(kept, found)
    counts: dict[str, list[int]] = {}
    for _, stage, weight in found.artifacts:
        counts.setdefault(stage, []).append(weight)
    told = {stage: {"artifacts": len(weights), "bytes": sum(weights)} for stage, weights in counts.items()}
    if json:
        typer.echo(document({"deleted": delete, "kept": found.kept, "leftovers": found.leftovers, "stages": told}))
        return 0
    rows = [(f"  {stage}", str(each["artifacts"]), size(each["bytes"])) for stage, each in told.items()]
    rows.append(("  left by failures", "", size(found.leftovers)))
    verb = "Deleted" if delete else "Would delete (add --delete)"
    typer.echo(f"{verb}: {size(found.bytes)}; kept: {found.kept} artifacts.\n{aligned(rows)}")
    return 0


@app.command()
def verify(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store's folder.")], json: options.Json = False
) -> int:
    """Hash every artifact of a store anew and tell which are damaged; they are made again when they are next needed.

    Example: redcloak bench verify bench-quick/store
    """
    from redcloak.bench import care

    found = list(care.verify(needed(store)))
    bad = [(key, stage, file) for key, stage, file in found if file]
    if json:
        typer.echo(document({"artifacts": len(found), "damaged": [list(each) for each in bad]}))
    else:
        lines = [f"damaged: {stage or 'unknown stage'} {key[:12]}: {file}" for key, stage, file in bad]
        typer.echo("\n".join([*lines, f"{len(found)} artifacts, {len(bad)} damaged."]))
    return 1 if bad else 0


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The folder of a finished run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="That of another.")],
    metric: Annotated[str, typer.Option(metavar="NAME", help="The score to compare.")] = "identity_zero",
    json: options.Json = False,
) -> int:
    """Compare two runs: what changed in their matrices, and B minus A in every arm, paired by subject and seed.

    Example: redcloak bench compare bench-quick bench-quick-longer
    """
    from redcloak.bench.compare import compare as compared

    found = compared(a, b, metric)
    if json:
        arms = [
            {"arm": each.cell._asdict(), "a": each.a, "b": each.b, "change": vars(each.change)} for each in found.arms
        ]
        typer.echo(document({"settings": found.settings, "arms": arms, "only_a": found.only_a, "only_b": found.only_b}))
        return 0
    from redcloak.cli.text import interval

    changed = [f"  {name}: {mine} -> {other}" for name, mine, other in found.settings]
    rows = [("arm", "A", "B", "B - A", "")]
    rows += [
        (words(each.cell), f"{each.a:.3f}", f"{each.b:.3f}", interval(each.change), "certain" if each.certain else "")
        for each in found.arms
    ]
    lines = ["Changed in the matrix:", *(changed or ["  nothing"]), "", aligned(rows)]
    for name, cells in (("A", found.only_a), ("B", found.only_b)):
        lines += [f"only in {name}: {words(cell)}" for cell in cells]
    typer.echo("\n".join(lines))
    return 0


@app.command()
def claim(
    given: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    protection: Annotated[str | None, typer.Option(metavar="LABEL", help="Claim what survives of it.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="STEPS", help="Where the run has several.")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Of the claim. [PROTECTION-BUDGET-SUITE]")] = None,
    challenge: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A claim that this run lowers; it is written into it.")
    ] = None,
    folder: Annotated[Path, typer.Option("--claims", metavar="DIR", help="The folder of claims.")] = Path("claims"),
    by: Annotated[str, typer.Option(metavar="WHO", help="Who ran it, and where the run can be had.")] = "",
) -> int:
    """Claim what survives in a finished run, or challenge a claim with a run that lowers it.

    Example: redcloak bench claim bench-tiny --protection aspl
    """
    from redcloak.bench import claims
    from redcloak.bench.board import read_board

    if (challenge is None) == (protection is None):
        raise UserError("claim: give --protection LABEL to claim, or --challenge FILE to lower a claim.")
    if challenge is not None:
        lowered = claims.challenge(given, challenge, by)
        typer.echo(f"{lowered.name}: {lowered.stands.survives} stands, by {lowered.stands.red_team}.")
        return 0
    assert protection is not None
    row = read_board(given).standing(protection, budget)
    called = name or f"{protection}-{row.budget}-{read_board(given).suite}".replace(" ", "-").replace("/", "-")
    path = claims.make(given, protection, budget, called, folder, by)
    typer.echo(f"{path}: {row.survives} survives {row.strongest.label}.")
    return 0


def needed(store: Path, read_only: bool = True) -> Store:
    """A store that must be there."""
    from redcloak.store import Store

    if not store.is_dir():
        raise UserError(f"store {store}: there is none; run the matrix first, or name another --store.")
    return Store(store, read_only)


def standings(board: Board, out: Path) -> str:
    """The leaderboard in words."""
    from redcloak.bench.page import headline
    from redcloak.cli.text import interval

    rows = [("protection", "/255", "survives", "strongest red team", "nothing done", "seconds", "red flags")]
    for row in board.standings:
        numbers = (interval(row.survives), row.strongest.label, interval(row.untreated), f"{row.seconds:.1f}")
        rows.append((row.protection, row.budget, *numbers, ", ".join(row.flags) or "none"))
    failed = [f"failed: {each.label} ({each.key[:12]}): {each.reason}" for each in board.failures]
    if failed:
        failed.append("The same command tries them again.")
    about = f"{board.protocol} v{board.version}: {board.arms_finished} of {board.arms} arms."
    parts = [headline(board), aligned(rows), "\n".join(failed), about, str(out / "leaderboard.html")]
    return "\n\n".join(part for part in parts if part)


def reasons(found: Why, depth: int = 0, name: str = "") -> list[str]:
    """Why a stage is there or not, an input deeper on each level."""
    pad = "  " * depth
    said = f"{pad}{f'input {name}, ' if name else ''}{found.node.label or found.node.stage} {found.node.key[:12]}: "
    if found.hit and not found.nearest:
        return [f"{said}hit, it is in the store"]
    state = "in the store, but not the one that was used" if found.hit else "miss"
    if found.failed:
        state += f"; it failed: {found.failed}"
    if not found.nearest:
        return [f"{said}{state}; no {found.node.stage} is in the store"]
    lines = [f"{said}{state}; the nearest result is {found.nearest[:12]}, which differs in:"]
    lines += [f"{pad}  {field}: {there!r} there, {wanted!r} wanted" for field, wanted, there in found.fields]
    for each, source in found.inputs:
        lines += reasons(source, depth + 1, each)
    if not found.fields and not found.inputs:
        lines.append(f"{pad}  nothing but the name of an input")
    return lines


def reasons_json(found: Why) -> dict[str, Any]:
    """The same for machines."""
    fields = [{"field": field, "wanted": wanted, "there": there} for field, wanted, there in found.fields]
    inputs = {name: reasons_json(source) for name, source in found.inputs}
    node = {"label": found.node.label, "stage": found.node.stage, "key": found.node.key}
    return {
        **node,
        "hit": found.hit,
        "failed": found.failed,
        "nearest": found.nearest,
        "fields": fields,
        "inputs": inputs,
    }


def words(cell: Cell) -> str:
    """A cell in words."""
    from redcloak.bench.board import team_label

    return f"{cell.protection}@{cell.budget} {team_label(cell.team)} ({cell.prompts})".replace("@-", "")
