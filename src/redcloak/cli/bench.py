"""``redcloak bench``: a matrix of arms, planned, run, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redcloak.bench.folder import PHOTOS, run_folder
from redcloak.cli import options, study
from redcloak.cli.bench_runs import claim, compare
from redcloak.cli.bench_words import as_markdown, reasons, reasons_json, standings
from redcloak.cli.plan_words import size, told
from redcloak.cli.text import aligned, document
from redcloak.errors import UserError

if TYPE_CHECKING:
    from redcloak.bench.config import MatrixConfig
    from redcloak.bench.grid import Matrix

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
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="AXIS=LABEL,...", help="Keep only arms that match, as in protection=aspl. Repeatable."),
]
Subjects = Annotated[
    list[str] | None,
    typer.Option(
        "--subject", metavar="PHOTOS", help="A folder of photos or drawn:N, in place of the matrix's. Repeatable."
    ),
]


def matrix_config(
    name: str,
    only: list[str] | None = None,
    device: str | None = None,
    workers: int | None = None,
    subjects: list[str] | None = None,
) -> MatrixConfig:
    """The matrix with what the flags change."""
    from redcloak.bench.config import load

    return load(name, only=filters(only), device=device, workers=workers, subjects=subjects or None)


def filters(texts: list[str] | None) -> list[dict[str, list[str]]] | None:
    """``["protection=aspl,purifier=jpeg"]`` -> one filter; an axis that is named twice takes either."""
    if not texts:
        return None
    import re

    from redcloak.bench.axes import AXES

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


def expanded(config: MatrixConfig, out: Path) -> Matrix:
    """The arms of a matrix; what is known of photos is kept in the run's folder, where there is one."""
    from redcloak.bench.digests import Digests
    from redcloak.bench.grid import Matrix

    return Matrix.of(config, Digests(out / PHOTOS))


def _is_study(matrix: str, only: list[str] | None, subjects: list[str] | None) -> bool:
    from redcloak.bench.config import is_study

    if not is_study(matrix):
        return False
    _refuse_axes(only, subjects)
    return True


def _refuse_axes(only: list[str] | None, subjects: list[str] | None) -> None:
    if only or subjects:
        flag = "--only" if only else "--subject"
        raise UserError(f"{flag}: a study has no axes; write a YAML file that extends it, with the subjects you want.")


@app.command()
def plan(
    matrix: Named,
    out: Out = None,
    store: options.Place = None,
    only: Only = None,
    subject: Subjects = None,
    workers: options.Workers = None,
    json: options.Json = False,
) -> int:
    """Say what a run would do and cost; make nothing.

    Example: redcloak bench plan quick
    """
    if _is_study(matrix, only, subject):
        return study.plan(matrix, out, store, workers, json)
    from redcloak.bench.plan import plan as planned
    from redcloak.runtime.places import find_store

    config = matrix_config(matrix, only, workers=workers, subjects=subject)
    where = run_folder(config.protocol, out)
    kept = store or str(where / "store")
    there = find_store(kept)
    found = planned(expanded(config, where), there, config.workers, there.root if there else Path(kept))
    typer.echo(document(found.to_json()) if json else f"{found.name}: {found.arms} arms\n\n{told(found)}")
    return 0


@app.command()
def run(
    matrix: Named,
    out: Out = None,
    store: options.Place = None,
    only: Only = None,
    subject: Subjects = None,
    overwrite: Annotated[
        str,
        typer.Option(
            metavar="WORD",
            help="missing: what is not there; retry: only what failed; force: everything anew; read-only: nothing.",
        ),
    ] = "missing",
    workers: options.Workers = None,
    threads: options.Threads = None,
    executor: Annotated[str, typer.Option(metavar="NAME", help="local, ray, or ray:ADDRESS of a cluster.")] = "local",
    device: options.Device = None,
    json: options.Json = False,
    open_: Annotated[bool, typer.Option("--open", help="Open the leaderboard in a browser.")] = False,
) -> int:
    """Make what is missing, and write the leaderboard; what fails stops nothing else and is tried again next time.

    A run that was killed goes on where it was when the same command is run again.

    Example: redcloak bench run quick
    """
    if _is_study(matrix, only, subject):
        return study.run(matrix, out, store, overwrite, workers, threads, executor, device, json, open_)
    from redcloak.bench.run import WAYS, prepare
    from redcloak.cli.progress import Screen
    from redcloak.errors import unknown

    if overwrite not in WAYS:
        raise unknown("word for --overwrite", overwrite, WAYS)
    config = matrix_config(matrix, only, device, workers, subject)
    if executor == "local" and config.device != "cpu":  # on a cluster the GPUs are elsewhere
        from redcloak.doctor import check_device

        check_device(config.device)
    where = run_folder(config.protocol, out)
    bench = prepare(expanded(config, where), where, store, overwrite == "read-only")
    with Screen(bench.plan(config.workers, overwrite)) as screen:
        board = bench.run(overwrite, config.workers, executor, screen.follow, threads, options.warn)
    typer.echo(board.to_json() if json else standings(board, where), nl=not json)
    if open_:
        typer.launch((where / "leaderboard.html").absolute().as_uri())
    return 1 if board.failures else 0


@app.command()
def report(
    matrix: Named,
    out: Out = None,
    store: options.Place = None,
    only: Only = None,
    subject: Subjects = None,
    json: options.Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The tables as Markdown on stdout.")] = False,
) -> int:
    """Write the results and the leaderboard of what is there, anew.

    Example: redcloak bench report quick
    """
    from redcloak.bench.run import prepare

    if json and markdown:
        raise UserError("--json and --markdown: give one of them.")
    config = matrix_config(matrix, only, subjects=subject)
    where = run_folder(config.protocol, out)
    board = prepare(expanded(config, where), where, store, read_only=True).report(anew=True)
    said = board.to_json() if json else as_markdown(board) if markdown else standings(board, where)
    typer.echo(said, nl=not json)
    return 0


@app.command()
def why(
    matrix: Named,
    node: Annotated[str, typer.Argument(metavar="NODE", help="A stage's label or its key, or the beginning of it.")],
    out: Out = None,
    store: options.Place = None,
    subject: Subjects = None,
    json: options.Json = False,
) -> int:
    """Tell why a stage is in the store or not, and in which fields it differs from the nearest result that is.

    Example: redcloak bench why quick "protect: pid@11, drawn:100"
    """
    from redcloak.bench import care
    from redcloak.runtime.places import existing

    config = matrix_config(matrix, subjects=subject)
    where = run_folder(config.protocol, out)
    found = care.why(care.find_node(expanded(config, where), node), existing(store or where / "store"))
    typer.echo(document(reasons_json(found)) if json else "\n".join(reasons(found)))
    return 0


@app.command()
def gc(
    matrices: Annotated[
        list[str], typer.Argument(metavar="MATRIX...", help="Matrices and studies; what they need is kept.")
    ],
    out: Out = None,
    store: options.Place = None,
    subject: Subjects = None,
    models: Annotated[
        bool, typer.Option("--models", help="Also personalized models whose pictures are all drawn.")
    ] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; otherwise it is only told.")] = False,
    json: options.Json = False,
) -> int:
    """Tell what the store keeps that none of these matrices needs, and delete it where --delete is given.

    What the last run in the folder of each was of is kept, too.

    Example: redcloak bench gc quick --models
    """
    from redcloak.bench.config import is_study, protocol_of
    from redcloak.bench.garbage import clean
    from redcloak.runtime.places import existing

    if all(map(is_study, matrices)):
        _refuse_axes(None, subject)
    kept = existing(store or run_folder(protocol_of(matrices[0]), out) / "store", read_only=not delete)
    found = clean(kept, matrices, out, subject, models, delete)
    if json:
        stages = {stage: {"artifacts": count, "bytes": weight} for stage, (count, weight) in found.stages.items()}
        rest = {"leftovers": found.leftovers, "failures": len(found.failures)}
        typer.echo(document({"deleted": delete, "kept": found.kept, **rest, "stages": stages}))
        return 0
    rows = [(f"  {stage}", str(count), size(weight)) for stage, (count, weight) in found.stages.items()]
    rows.append(("  left by failures", str(len(found.failures) or ""), size(found.leftovers)))
    verb = "Deleted" if delete else "Would delete (add --delete)"
    typer.echo(f"{verb}: {size(found.bytes)}; kept: {found.kept} artifacts.\n{aligned(rows)}")
    return 0


@app.command()
def verify(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A store: its folder, s3:// or gs://.")],
    json: options.Json = False,
) -> int:
    """Hash every artifact of a store anew and tell which are damaged; they are made again when they are next needed.

    Example: redcloak bench verify bench-quick/store
    """
    from redcloak.bench import care
    from redcloak.runtime.places import existing

    found = list(care.verify(existing(store)))
    bad = [(key, stage, file) for key, stage, file in found if file]
    if json:
        typer.echo(document({"artifacts": len(found), "damaged": [list(each) for each in bad]}))
    else:
        lines = [f"damaged: {stage or 'unknown stage'} {key[:12]}: {file}" for key, stage, file in bad]
        typer.echo("\n".join([*lines, f"{len(found)} artifacts, {len(bad)} damaged."]))
    return 1 if bad else 0


app.command()(compare)
app.command()(claim)
