"""What ``redcloak bench`` says: plans, standings and reasons in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from redcloak.cli.text import aligned

if TYPE_CHECKING:
    from redcloak.bench.board import Board
    from redcloak.bench.care import Why
    from redcloak.bench.plan import MatrixPlan
    from redcloak.bench.results import Cell


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
