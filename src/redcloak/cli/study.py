"""``redcloak bench`` for a causal study: the same verbs, another kind of page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from redcloak.bench.folder import run_folder
from redcloak.cli.text import aligned, document
from redcloak.errors import UserError

if TYPE_CHECKING:
    from redcloak.diagnose.study_run import Findings


def plan(name: str, out: Path | None, store: str | None, workers: int | None, json: bool) -> int:
    """Say what a run of a study would do."""
    from redcloak.cli.plan_words import told as planned
    from redcloak.diagnose.study import load
    from redcloak.diagnose.study_run import Study

    config = load(name, workers=workers)
    where = run_folder(config.protocol, out)
    found = Study.prepare(config, where, store, read_only=True).plan()
    typer.echo(document(found.to_json()) if json else f"{config.name}\n\n{planned(found)}")
    return 0


def run(
    name: str,
    out: Path | None,
    store: str | None,
    overwrite: str,
    workers: int | None,
    threads: int | None,
    executor: str,
    device: str | None,
    json: bool,
    show: bool,
) -> int:
    """Run a study, print its verdicts."""
    from redcloak.cli.progress import Screen
    from redcloak.diagnose.study import load
    from redcloak.diagnose.study_run import Study

    if overwrite != "missing":
        raise UserError(f"--overwrite {overwrite}: a study only makes what is missing; leave it out.")
    config = load(name, workers=workers, device=device)
    where = run_folder(config.protocol, out)
    study = Study.prepare(config, where, store)
    with Screen(study.plan()) as screen:
        found = study.run(screen.follow, executor, threads)
    typer.echo(found.to_json() if json else told(found, where), nl=not json)
    if show:
        typer.launch((where / "causal.html").absolute().as_uri())
    return 0


def told(found: Findings, where: Path) -> str:
    """What was done to the photos; the verdicts, where models were trained; and where the page is."""
    config = found.config
    head = f"{config.name}: {found.counts}, {config.base} at {config.budget:g}/255"
    parts = [head, aligned([tuple(found.verified[0]), *(tuple(row.values()) for row in found.verified)])]
    rows = [("", "claim", "verdict", "effect", "margin", "n")]
    for each in found.verdicts:
        counted = f"{each.effect.clusters} {each.effect.over}"
        rows.append((each.claim, each.words, each.answer, str(each.effect), f"{each.margin:g}", counted))
    parts += [aligned(rows)] if found.evidence else []
    return "\n\n".join([*parts, str(where / "causal.html")])
