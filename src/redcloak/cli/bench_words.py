"""What ``redcloak bench`` says: standings and reasons in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from redcloak.cli.text import aligned

if TYPE_CHECKING:
    from redcloak.bench.board import Board
    from redcloak.bench.care import Why
    from redcloak.bench.results import Cell


def standings(board: Board, out: Path) -> str:
    """The leaderboard in words."""
    from redcloak.bench.page import headline
    from redcloak.cli.text import interval

    rows = [("protection", "/255", "survives", "strongest red team", "nothing done", "seconds", "red flags")]
    for row in board.standings:
        numbers = (interval(row.survives), row.strongest.label, interval(row.untreated), f"{row.seconds:.1f}")
        rows.append((row.protection, row.budget, *numbers, ", ".join(row.flags) or "none"))
    lacking = [
        f"not ranked: {row.protection}@{row.budget} has not met everybody; arms: {', '.join(row.missing)}"
        for row in board.standings
        if not row.complete
    ]
    failed = [f"failed: {each.label} ({each.key[:12]}): {each.reason}" for each in board.failures]
    if failed:
        failed.append("The same command tries them again.")
    about = f"{board.protocol} v{board.version}: {board.arms_finished} of {board.arms} arms."
    picked = "The strongest red team is picked: what survives is a little too low, its interval covers that."
    parts = [headline(board), aligned(rows), picked, "\n".join(lacking), "\n".join(failed), about]
    parts.append(str(out / "leaderboard.html"))
    return "\n\n".join(part for part in parts if part)


def as_markdown(board: Board) -> str:
    """The leaderboard as Markdown: what survives, without its share, and what each red team leaves of each."""
    from redcloak.bench.page import headline
    from redcloak.cli.text import interval, table

    columns = "protection, /255, survives, strongest red team, nothing done, beyond noise, seconds, red flags"
    ranks = [
        (
            row.protection,
            row.budget,
            interval(row.survives),
            row.strongest.label if row.complete else f"not ranked, lacks {', '.join(row.missing)}",
            interval(row.untreated),
            interval(row.beyond_noise) if row.beyond_noise else "-",
            f"{row.seconds:.1f}",
            ", ".join(row.flags),
        )
        for row in board.standings
    ]
    every, teams = [], board.teams
    for row in board.rows:
        found = {cell.label: interval(cell.survives) for cell in row.cells}
        if row in board.standings and row.complete:
            found[row.strongest.label] = f"**{found[row.strongest.label]}**"
        every.append((f"{row.protection}@{row.budget}".removesuffix("@-"), *(found.get(team, "-") for team in teams)))
    counts = (f"{n} {what}{'s' * (n != 1)}" for n, what in ((board.subjects, "subject"), (board.seeds, "seed")))
    about = f"{board.protocol} v{board.version}: {', '.join(counts)}, {board.arms_finished} of {board.arms} arms. "
    about += "In brackets 95 % intervals over subjects; of what survives it covers that the strongest was picked."
    parts = [
        headline(board),
        table(columns.split(", "), ranks),
        table(("still taken under", *teams), every),
        about,
    ]
    if board.failures:
        parts.append("\n".join(f"- failed: {each.label}: {each.reason}" for each in board.failures))
    return "\n\n".join(parts)


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
