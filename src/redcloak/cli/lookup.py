"""``redcloak list``, ``show`` and ``doctor``: what there is, what it does, and whether it works here."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redcloak.cli import options
from redcloak.cli.text import aligned, document
from redcloak.errors import unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redcloak.doctor import Finding, Training
    from redcloak.registry import Entry
    from redcloak.suite import Suite

SUITES, PROTOCOLS = "suites", "protocols"


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]", help="protections, purifiers, trainers, metrics, suites or protocols.", show_default=False
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """List methods and suites, each with a line.

    Example: redcloak list purifiers
    """
    found = {name: _members(name) for name in ([kind] if kind else _kinds())}
    if json:
        typer.echo(document(found))
        return
    parts = [
        f"{title}\n{aligned([('  ' + name, line) for name, line in rows.items()])}" for title, rows in found.items()
    ]
    typer.echo("\n\n".join(parts))


def _kinds() -> list[str]:
    from redcloak.registry import KINDS

    return [*(f"{word}s" for word in KINDS.values()), SUITES, PROTOCOLS]


def _members(plural: str) -> dict[str, str]:
    """Name -> line of everything of one kind, without importing it."""
    from redcloak import protocols, registry, suite

    if plural == SUITES:
        return {name: suite.load(name).spec.title for name in suite.names()}
    if plural == PROTOCOLS:
        return {name: protocols.read(name)["title"] for name in protocols.names()}
    for kind, word in registry.KINDS.items():
        if plural in (word, f"{word}s"):
            return {name: registry.summary(kind, name) for name in registry.names(kind)}
    raise unknown("kind", plural, _kinds())


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A method, a suite or a protocol.", show_default=False)],
    suite: options.Suite = None,
    json: options.Json = False,
) -> None:
    """Show a method: what it does, whose it is, its licence and its settings; or a suite.

    Example: redcloak show codesr
    """
    from redcloak import protocols, registry
    from redcloak.config import AuditConfig
    from redcloak.suite import load, names

    if name in names() or Path(name).is_dir():
        spec = load(name)
        typer.echo(document(spec.spec.model_dump(mode="json")) if json else _suite(spec))
        return
    kinds = [kind for kind in registry.KINDS if name in registry.names(kind)]
    if not kinds and name in protocols.names():
        protocol = protocols.read(name)
        typer.echo(document(protocol) if json else (protocols.FOLDER / f"{name}.yaml").read_text("utf-8"), nl=json)
        return
    if not kinds:
        known = {*names(), *(each for kind in registry.KINDS for each in registry.names(kind))}
        raise unknown("method or suite", name, known, "See `redcloak list`.")
    entries = [registry.load(kind, name) for kind in kinds]
    used = load(suite or AuditConfig.model_fields["suite"].default)
    if json:
        typer.echo(document([_facts(entry, used) for entry in entries]))
    else:
        typer.echo("\n\n\n".join(_method(entry, used) for entry in entries))


def _method(entry: Entry, suite: Suite) -> str:
    from redcloak.registry import KINDS

    method = entry.method
    facts = [
        ("Source", method.cite),
        ("Licence", method.license),
        ("Version", str(method.version)),
        ("Random", "yes, seeded" if method.stochastic else "no"),
        ("Models", ", ".join(method.needs) or "none"),
    ]
    head = f"{entry.name} ({KINDS[entry.kind]}): {method.title}"
    scores = [
        (f"  {key}", score.title, f"{score.low:g} to {score.high:g} {score.unit}")
        for key, score in method.scores.items()
    ]
    parts = [head, inspect.cleandoc(entry.doc), aligned(facts), _settings(entry, suite)]
    return "\n\n".join([*parts, f"Scores\n{aligned(scores)}"] if scores else parts)


def _settings(entry: Entry, suite: Suite) -> str:
    """The table of settings, with a column for the defaults that the suite puts in place of the method's own."""
    fields = entry.config.model_json_schema().get("properties", {})
    if not fields:
        return "Settings: none."
    replaced = suite.settings(entry.name, {})
    rows = [("  setting", "default", f"in {suite.name}", "range", "meaning")]
    for name, field in fields.items():
        there = _plain(replaced[name]) if name in replaced else ""
        rows.append((f"  {name}", _plain(field.get("default")), there, _range(field), field.get("description", "")))
    return f"Settings\n{aligned(rows if replaced else [(*row[:2], *row[3:]) for row in rows])}"


def _plain(value: Any) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _range(field: dict[str, Any]) -> str:
    """The allowed values of a field of a JSON schema, in words."""
    field = next((kind for kind in field.get("anyOf", []) if kind.get("type") != "null"), {}) | field
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    return ", ".join(limits) or str(field.get("type", ""))


def _facts(entry: Entry, suite: Suite) -> dict[str, Any]:
    """A method for machines."""
    method = entry.method
    return {
        "kind": entry.kind,
        "name": entry.name,
        "title": method.title,
        "doc": inspect.cleandoc(entry.doc),
        "cite": method.cite,
        "license": method.license,
        "version": method.version,
        "needs": list(method.needs),
        "settings": entry.config.model_json_schema(),
        "suite_defaults": suite.settings(entry.name, {}),
    }


def _suite(suite: Suite) -> str:
    spec = suite.spec
    slots = ("backbone", "clip", "restorer", "upscaler", "quality", "pixel")
    rows = [(f"  {slot}", getattr(spec, slot) or "-", spec.licenses.get(slot, "")) for slot in slots]
    defaults = [
        (f"  {method}", ", ".join(f"{key}={value}" for key, value in settings.items()))
        for method, settings in spec.defaults.items()
    ]
    parts = [f"{spec.name} (suite): {spec.title}, {spec.resolution} pixels", f"Models\n{aligned(rows)}"]
    if defaults:
        parts.append(f"Settings in place of the methods' own\n{aligned(defaults)}")
    return "\n\n".join([*parts, f"Folder: {suite.folder}"])


def doctor(suite: options.Suite = None, json: options.Json = False) -> int:
    """Check that everything a run needs is there, and say what to do where it is not.

    With --suite also what each trainer takes in memory on that suite, and what fits here: before anything is
    downloaded, from the shapes of the models alone. Exit status 1 where nothing would run.

    Example: redcloak doctor --suite sd21
    """
    from dataclasses import asdict

    from redcloak.doctor import examine, training

    findings = examine(Path.cwd())
    broken = any(finding.broken for finding in findings)
    told: list[Any] = [asdict(finding) for finding in findings]
    if json and (suite is None or broken):
        typer.echo(document(told))
    elif json:
        typer.echo(document({"findings": told, "training": asdict(training(str(suite), _say))}))
    else:
        typer.echo(_findings(findings))
        if suite is not None and not broken:
            typer.echo(f"\n{_fitting(training(suite, _say))}")
    return int(broken)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _findings(findings: Sequence[Finding]) -> str:
    marks = {True: "BROKEN", False: "ok"}
    rows = [
        ("note" if each.advice and not each.broken else marks[each.broken], each.name, each.found) for each in findings
    ]
    advice = [f"{each.name}: {each.advice}" for each in findings if each.advice]
    return "\n\n".join(filter(None, [aligned(rows), "\n".join(advice)]))


def _fitting(found: Training) -> str:
    """The table of what training takes, with a star where it is more than there is."""
    ways = next(iter(found.peaks.values()), {})
    rows = [("GiB at the peak", *ways)]
    rows += [
        (trainer, *(f"{peak:.2f}{' *' if peak > found.room else ''}" for peak in peaks.values()))
        for trainer, peaks in found.peaks.items()
    ]
    head = (
        f"Training on suite {found.suite} at {found.resolution} pixels; columns from left to right add up, "
        f"as --set says them.\n* is more than the {found.room:.2f} GiB of {found.where}, free or not."
    )
    return "\n\n".join([head, aligned(rows), *found.notes])
