"""``redcloak audit``: the whole chain, every arm, a report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redcloak.cli import options
from redcloak.cli.plan_words import told
from redcloak.cli.text import aligned, document, interval

if TYPE_CHECKING:
    from redcloak.config import AuditConfig
    from redcloak.report.model import Report
    from redcloak.runtime.plan import Plan

SHOWN = {"identity_zero": "identity", "face_found": "face found", "quality": "quality"}

Purifiers = Annotated[
    list[str] | None,
    typer.Option(
        "--purifier",
        "--purifiers",
        metavar="CHAIN",
        help='An arm for each chain, as in "gaussian;jpeg;restore,upscale". Repeatable; "" for none.',
    ),
]


def audit(
    out: options.Out,
    photos: options.Subjects = None,
    protection: Annotated[str | None, typer.Option(metavar="NAME", help="The protection to audit.")] = None,
    already_protected: Annotated[
        str | None,
        typer.Option(metavar="CLEAN", help="The clean photos, where PHOTOS were protected by another tool."),
    ] = None,
    budget: options.Budget = None,
    purifiers: Purifiers = None,
    seeds: Annotated[str | None, typer.Option("--seeds", "--seed", metavar="N,N", help="Training seeds.")] = None,
    suite: options.Suite = None,
    config: options.File = None,
    settings: options.Set = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would run and for how long; run nothing.")] = False,
    json: options.Json = False,
    device: options.Device = None,
    workers: options.Workers = None,
    threads: options.Threads = None,
    executor: options.Executor = None,
    store: options.Place = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 on a critical flag or a warning.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    force: options.Force = False,
) -> int:
    """Audit a protection: every arm from photos to a report.

    Of several subjects there is one report, which tests over them whether arms differ. A killed audit goes on where it
    was when the same command is run again.

    Example: redcloak audit photos --protection aspl --budget 8 --out audit

    Example: redcloak audit drawn:100 drawn:101 drawn:102 --out audit
    """
    chosen = options.configuration(
        config,
        settings,
        "protection",
        photos=photos or None,
        protection=protection,
        already_protected=already_protected,
        budget=budget,
        purifiers=options.chains(purifiers),
        seeds=options.numbers(seeds, "--seeds"),
        suite=suite,
        device=device,
        workers=workers,
        threads=threads,
        executor=executor,
    )
    if plan:
        found = _plan(chosen, out, store)
        typer.echo(document(found.to_json()) if json else told(found))
        return 0
    report = _run(chosen, out, store, force)
    typer.echo(report.to_json() if json else _told(report, out), nl=not json)
    if open_:
        typer.launch((out / "report.html").absolute().as_uri())
    return 3 if strict and any(flag.severity != "info" for flag in report.flags) else 0


def _run(config: AuditConfig, out: Path, store: str | None, force: bool) -> Report:
    from redcloak.audit import Audit
    from redcloak.cli.progress import Screen
    from redcloak.outputs import check_audit

    check_audit(out, (*config.folders, config.already_protected), force)
    prepared = Audit.prepare(config, out, store)
    with Screen(prepared.plan()) as screen:
        return prepared.run(screen.follow)


def _plan(config: AuditConfig, out: Path, store: str | None) -> Plan:
    """The plan of an audit that is prepared aside: planning makes neither the output folder nor the store."""
    from redcloak.audit import Audit
    from redcloak.runtime.places import find_store

    kept = store or str(out / "store")
    there = find_store(kept)
    with tempfile.TemporaryDirectory() as aside:
        audit = Audit.prepare(config, Path(aside), kept if there else None)
        return audit.plan(there.root if there else Path(kept))


def _told(report: Report, out: Path) -> str:
    """The verdict, the table of arms, the flags, and where the report is."""
    titles = {arm.name: arm.title for arm in report.arms}
    shown = [name for name in SHOWN if any(name in row.generated for row in report.rows)]
    rows = [("", "n", *(SHOWN[name] for name in shown))]
    for row in report.rows:
        cells = [row.generated.get(name) for name in shown]
        rows.append(
            (
                titles[row.arm],
                str(row.pictures("generated")),
                *(interval(cell.interval) if cell else "-" for cell in cells),
            )
        )
    flags = [f"{flag.severity}: {flag.message} [{flag.anchor}]" for flag in report.flags]
    if flags:
        flags.insert(0, "Red flags; docs/red-flags.md has a section for each:")
    parts = [str(report.verdict), aligned(rows), "\n".join(flags), str(out / "report.html")]
    return "\n\n".join(part for part in parts if part)
