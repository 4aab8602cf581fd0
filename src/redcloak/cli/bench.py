"""``redcloak bench``: a matrix of arms, planned, run, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redcloak.cli import options
from redcloak.cli.text import aligned, document
from redcloak.errors import UserError

if TYPE_CHECKING:
    from redcloak.bench.config import MatrixConfig
    from redcloak.bench.grid import Matrix
    from redcloak.bench.plan import MatrixPlan
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
    found = []
    for text in texts:
        axes: dict[str, list[str]] = {}
        for part in text.split(","):
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

    return Store(store) if store.is_dir() else None


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
