"""What a person sees while work is done, on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import typer

if TYPE_CHECKING:
    from redcloak.api import Progress
    from redcloak.runtime.execute import Event
    from redcloak.runtime.plan import Plan

REASON = 160  # letters of why a stage failed
EVERY_SECONDS = 10.0  # between two lines about one stage where there is no terminal


class Estimate:
    """The seconds left of a run: the plan's expectation, corrected by what the run itself has shown.

    A stage is expected to take the mean of what it took in this run and of the plan, which counts as one more
    observation. A stage not yet met takes the plan's time by the factor that the plan was wrong so far; one that the
    plan had measured, by the factor of those that it had measured: a guess that was wrong says nothing of it. A running
    stage is extrapolated from its own progress. As many stages run at once as the plan says, or were seen to: a cluster
    takes what it has, whatever ``--workers``.
    """

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self.rows = {row.stage: row for row in plan.rows}
        self.waiting = {row.stage: row.missing for row in plan.rows}
        self.total, self.done = sum(self.waiting.values()), 0
        self.width = plan.seconds / plan.elapsed if plan.elapsed else 1.0  # stages at the same time, on average
        self.usual = plan.seconds / max(self.total, 1)
        self.measured: dict[str, list[float]] = {}
        self.running: dict[str, tuple[str, float, float]] = {}
        self.clock = clock

    def take(self, event: Event) -> None:
        """Learn from an event."""
        key, stage = event.node.key, event.node.stage
        if event.kind == "started":
            self.waiting[stage] -= 1
            self.running[key] = stage, self.clock(), 0.0
            self.width = max(self.width, len(self.running))
        elif event.kind == "progress" and key in self.running:
            self.running[key] = *self.running[key][:2], event.done / max(event.total, 1)
        elif event.kind == "lost":
            self.waiting[stage] += bool(self.running.pop(key, None))
        elif event.kind == "skipped":
            self.waiting[stage] -= 1
            self.done += 1
        elif event.kind in ("finished", "failed"):
            self.waiting[stage] -= not self.running.pop(key, None)
            self.done += 1
        if event.kind == "finished":
            self.measured.setdefault(stage, []).append(event.seconds)

    @property
    def guessed(self) -> bool:
        """Whether some stage that is left was never measured, in this run or before."""
        left = {stage for stage, count in self.waiting.items() if count} | {row[0] for row in self.running.values()}
        return any(stage not in self.measured and self.rows[stage].source != "measured" for stage in left)

    def seconds(self) -> float:
        """The wall seconds left, as far as is known."""
        work = sum(count * self._each(stage) for stage, count in self.waiting.items())
        work += sum(self._rest(*row) for row in self.running.values())
        return work / self.width

    def _each(self, stage: str) -> float:
        past = self.measured.get(stage, [])
        return (self._planned(stage) * (1.0 if past else self._error(stage)) + sum(past)) / (1 + len(past))

    def _planned(self, stage: str) -> float:
        return self.rows[stage].seconds_each or 0.0

    def _error(self, stage: str) -> float:
        trusted = self.rows[stage].source == "measured"
        seen = {
            name: past for name, past in self.measured.items() if not trusted or self.rows[name].source == "measured"
        }
        expected = self.usual + sum(self._planned(name) * len(past) for name, past in seen.items())
        return (self.usual + sum(map(sum, seen.values()))) / expected if expected else 1.0

    def _rest(self, stage: str, start: float, share: float) -> float:
        spent = self.clock() - start
        return spent * (1 - share) / share if share else max(self._each(stage) - spent, 0.0)

    def __str__(self) -> str:
        """``12/57, about 6 min left``."""
        guess = "at a guess " if self.guessed else "about "
        return f"{self.done}/{self.total}, {guess}{duration(self.seconds())} left"


class Screen:
    """The display of one command: a context that gives progress callbacks, or follows the events of a run."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.estimate = Estimate(plan) if plan else None
        self.show: Lines | Bars = Bars() if sys.stderr.isatty() else Lines()

    def __enter__(self) -> Self:
        self.show.start(self.estimate)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.show.stop()

    def watch(self, label: str) -> Progress:
        """The progress callback of a stage."""
        self.show.begin(label, label)
        return lambda done, total, values: self.show.update(label, done, total, values)

    def follow(self, event: Event) -> None:
        """Take an event of a run."""
        if self.estimate and event.kind != "cached":
            self.estimate.take(event)
        if event.kind == "started":
            self.show.begin(event.node.key, event.node.label)
        elif event.kind == "progress":
            self.show.update(event.node.key, event.done, event.total, event.values)
        elif event.kind in ("finished", "lost"):
            self.show.end(event.node.key, event.kind)
        elif event.kind == "failed":
            label, reason = event.node.label or event.node.stage, event.failure.reason if event.failure else ""
            self.show.fail(event.node.key, label, shortened(reason))


class Lines:
    """Plain lines, for logs."""

    def __init__(self) -> None:
        self.begun: dict[str, tuple[str, float, float]] = {}
        self.estimate: Estimate | None = None

    def start(self, estimate: Estimate | None) -> None:
        """Begin; ``estimate`` is of the whole run."""
        self.estimate = estimate

    def stop(self) -> None:
        """There is nothing to clear away."""

    def begin(self, key: str, label: str) -> None:
        """A stage starts; in a run, only its end is told."""
        self.begun[key] = label, time.monotonic(), time.monotonic()
        if not self.estimate:
            typer.echo(label, err=True)

    def update(self, key: str, done: int, total: int, values: Mapping[str, float]) -> None:
        """A stage goes on: a line now and then."""
        label, start, told = self.begun[key]
        now = time.monotonic()
        if now - told >= EVERY_SECONDS and done:
            self.begun[key] = label, start, now
            left = duration((now - start) * (total - done) / done)
            typer.echo(f"{label}: {done}/{total}, {spoken(values)}about {left} left", err=True)

    def end(self, key: str, how: str) -> None:
        """A stage ends."""
        if key not in self.begun:  # its worker had not begun, or was lost
            return
        label, start, _ = self.begun.pop(key)
        spent = duration(time.monotonic() - start)
        typer.echo(f"{label}: {spent} ({self.estimate})" if how == "finished" else f"{label}: {how}", err=True)

    def fail(self, key: str, label: str, reason: str) -> None:
        """A stage fails, whether it had begun or not."""
        self.begun.pop(key, None)
        typer.echo(f"{label}: failed: {reason}", err=True)


class Bars:
    """Rich's bars: one of the whole run with the time left, one for each stage that runs, with its loss."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        text, note = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[note]"))
        self.bars = Progress(text, BarColumn(), TimeElapsedColumn(), note, console=Console(stderr=True), transient=True)
        self.tasks: dict[str, Any] = {}
        self.estimate: Estimate | None = None

    def start(self, estimate: Estimate | None) -> None:
        """Show the bars; with an ``estimate``, the first is that of the whole run."""
        self.estimate = estimate
        self.bars.start()
        if estimate:
            self.tasks[""] = self.bars.add_task("all stages", total=max(estimate.total, 1), note=str(estimate))

    def stop(self) -> None:
        """Take the bars away."""
        self.bars.stop()

    def begin(self, key: str, label: str) -> None:
        """A stage starts."""
        self.tasks[key] = self.bars.add_task(label, total=None, note="")
        self._overall()

    def update(self, key: str, done: int, total: int, values: Mapping[str, float]) -> None:
        """A stage goes on."""
        task = self.bars.tasks[self.bars.task_ids.index(self.tasks[key])]
        left = f"about {duration((task.elapsed or 0.0) * (total - done) / done)} left" if done else ""
        self.bars.update(self.tasks[key], completed=done, total=total, note=spoken(values) + left)
        self._overall()

    def end(self, key: str, how: str) -> None:
        """A stage ends."""
        if key in self.tasks:  # else its worker had not begun, or was lost
            self.bars.remove_task(self.tasks.pop(key))
        self._overall()

    def fail(self, key: str, label: str, reason: str) -> None:
        """A stage fails: its bar goes, a line stays."""
        self.end(key, "failed")
        self.bars.console.print(f"{label}: failed: {reason}", markup=False, highlight=False, soft_wrap=True)

    def _overall(self) -> None:
        if self.estimate:
            self.bars.update(self.tasks[""], completed=self.estimate.done, note=str(self.estimate))


def shortened(reason: str) -> str:
    """A reason on one line, cut off where it is long."""
    words = " ".join(reason.split()) or "no reason was given"
    return words if len(words) <= REASON else f"{words[:REASON]} ..."


def spoken(values: Mapping[str, float]) -> str:
    """``loss 0.123, ``: what a stage reports of itself."""
    return "".join(f"{name} {value:.3g}, " for name, value in values.items())


def duration(seconds: float) -> str:
    """``42 s``, ``3 min``, ``2 h 05 min``: as exact as an estimate deserves."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
