"""A plan in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redcloak.cli.text import aligned

if TYPE_CHECKING:
    from redcloak.runtime.plan import Plan


def told(plan: Plan) -> str:
    """A plan as a table, and what it takes in three lines."""
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
    return f"{aligned(rows)}\n\n{_summed(plan)}"


def _summed(plan: Plan) -> str:
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
