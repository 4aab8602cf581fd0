"""Figures of the report: a dot and its interval for each arm, as SVG that takes the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from redcloak.api import Score
from redcloak.images import Picture
from redcloak.report.model import CLEAN, PROTECTED, UNTUNED, Arm, Report
from redcloak.stats import Estimate

# Stand-ins that the page's own colours replace, so that one figure suits a light and a dark page.
INK, FAINT, ACCENT = "#010203", "#040506", "#070809"
THEME = {INK: "currentColor", FAINT: "var(--faint)", ACCENT: "var(--accent)"}
AMPLIFICATION = 10

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and set in the page's typeface
    "svg.hashsalt": "redcloak",
    "text.parse_math": False,  # a dollar sign in a title is a dollar sign
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True)
class Plot:
    """One figure: its title, what it shows in words, and the SVG element."""

    title: str
    description: str
    svg: str


def plots(report: Report, metrics: Sequence[str]) -> list[Plot]:
    """A figure for each metric that was scored on generated pictures, in the order of ``metrics``."""
    return [
        _plot(report.arms, intervals, report.metrics[metric])
        for metric in metrics
        if (intervals := _intervals(report, metric))
    ]


def one_by_one(report: Report, metrics: Sequence[str]) -> list[Plot]:
    """A figure for each metric: a line from arm to arm for each subject, or for each seed of a single one."""
    found = []
    for metric in metrics:
        rows = {row.arm: row.one_by_one[metric] for row in report.rows if row.one_by_one.get(metric)}
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        if len(names) > 1:
            found.append(_lines([arm for arm in report.arms if arm.name in rows], rows, names, report.metrics[metric]))
    return found


def _lines(arms: Sequence[Arm], rows: dict[str, dict[str, Estimate]], names: Sequence[str], score: Score) -> Plot:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.55 + 0.45 * len(arms)), layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(names):
            shift = 0.3 * (2 * place / (len(names) - 1) - 1)  # a row of its own, so that intervals do not cover others
            here = [(rows[arm.name][name], row + shift) for row, arm in enumerate(arms) if name in rows[arm.name]]
            axes.plot([each.estimate for each, _ in here], [y for _, y in here], color=FAINT, linewidth=0.8, zorder=0)
            for each, y in here:
                axes.plot([each.low, each.high], [y, y], color=INK, linewidth=0.8, alpha=0.35)
            axes.plot([each.estimate for each, _ in here], [y for _, y in here], "o", color=INK, markersize=3.2)
        _dress(axes, [arm.title for arm in arms])
        element = svg(figure, f"{score.title} one by one")
    return Plot(
        score.title, f"{score.title}, one line each: {', '.join(names)}. The numbers are in the table below.", element
    )


def _dress(axes: Axes, titles: Sequence[str]) -> None:
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.4, -0.6)
    axes.tick_params(length=0, pad=8)
    axes.tick_params(axis="x", pad=4)
    axes.locator_params(axis="x", nbins=6)
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=FAINT)


def perturbation(photo: Picture, clean: Picture) -> Picture:
    """What was added to a photo, ten times amplified around mid-grey: ``(H, W, 3)`` uint8."""
    difference = photo.astype(np.int16) - clean.astype(np.int16)
    return np.clip(128 + AMPLIFICATION * difference, 0, 255).astype(np.uint8)


def _intervals(report: Report, metric: str) -> dict[str, Estimate]:
    found = {row.arm: row.generated[metric] for row in report.rows if metric in row.generated}
    return {arm: cell.interval for arm, cell in found.items() if not cell.empty}


def _plot(arms: Sequence[Arm], intervals: dict[str, Estimate], score: Score) -> Plot:
    shown = [arm for arm in arms if arm.name in intervals]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.55 + 0.37 * len(shown)), layout="constrained")
        axes = figure.subplots()
        for row, arm in enumerate(shown):
            _mark(axes, row, intervals[arm.name], ACCENT if arm.name == PROTECTED else INK)
        for name in (UNTUNED, CLEAN):
            if name in intervals:
                axes.axvline(intervals[name].estimate, color=FAINT, linewidth=1, dashes=(3, 3), zorder=0)
        _dress(axes, [arm.title for arm in shown])
        element = svg(figure, score.title)
    words = "; ".join(f"{arm.title} {intervals[arm.name]}" for arm in shown)
    return Plot(score.title, f"{score.title} of generated pictures, {score.better} is better. {words}.", element)


def _mark(axes: Axes, row: int, interval: Estimate, color: str) -> None:
    if not isnan(interval.low):
        axes.plot([interval.low, interval.high], [row, row], color=color, linewidth=2, solid_capstyle="round")
    axes.plot([interval.estimate], [row], "o", color=color, markersize=6.5)


def svg(figure: Figure, title: str) -> str:
    """The figure as an ``<svg>`` element in the page's colours, with names that differ between figures."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r"<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;", "", text)
    for stand_in, color in THEME.items():
        text = text.replace(stand_in, color)
    prefix = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    return text.replace("xlink:href", "href")
