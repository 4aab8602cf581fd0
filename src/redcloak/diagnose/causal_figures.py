"""The two figures of the causal analysis: every claim's effect with its margin, and damage against misalignment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from redcloak.diagnose.causes import Panel
from redcloak.diagnose.verdicts import Verdict

COLOURS = {"supported": "#2a7f3f", "refuted": "#b3322c", "undecided": "#777777"}
VIEWS = {"misalignment": "cosine with the prompt lost, photo", "misalignment_decoded": "... decoded photo"}


def effects(verdicts: Sequence[Verdict], path: Path) -> None:
    """Effects with their intervals, and each one's margin as a tick; the colour is the verdict."""
    figure = Figure(figsize=(9, 0.9 + 0.3 * len(verdicts)), layout="constrained")
    axes = figure.subplots()
    for row, each in enumerate(verdicts):
        low, high = np.clip([each.effect.low, each.effect.high], -1.5, 1.5)  # a ratio may be anywhere
        axes.plot([low, high], [row, row], color=COLOURS[each.answer])
        axes.plot(np.clip(each.effect.estimate, -1.5, 1.5), row, "o", color=COLOURS[each.answer])
        axes.plot(each.margin, row, "|", color="black", markersize=9)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_yticks(
        range(len(verdicts)), [f"{each.claim}  {each.words}: {each.answer}" for each in verdicts], fontsize=7
    )
    axes.invert_yaxis()
    axes.set_xlabel("effect with its 95% interval; tick: the smallest that counts", fontsize=8)
    figure.savefig(path)


def dose(panel: Panel, path: Path) -> None:
    """Damage against misalignment, of the photo and of the decoded one; a point is a subject."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for axes, (column, label) in zip(figure.subplots(1, 2, sharey=True), VIEWS.items(), strict=True):
        for arm in dict.fromkeys(panel.arms.tolist()):
            rows = panel.arms == arm
            x, y = panel.columns[column][rows], panel.columns["damage"][rows]
            (points,) = axes.plot(x, y, ".", alpha=0.4)
            axes.plot(x.mean(), y.mean(), "o", color=points.get_color())
            axes.annotate(arm, (x.mean(), y.mean()), fontsize=7, xytext=(3, 3), textcoords="offset points")
        axes.set_xlabel(label, fontsize=8)
        axes.set_ylabel("identity lost", fontsize=8)
    figure.savefig(path)
