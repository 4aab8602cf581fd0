"""Figures of a diagnosis: what each group changed, the clouds, the heat of a word, and quality against steps."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from math import isnan
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from redcloak.diagnose.groups import CLEAN
from redcloak.diagnose.model import CurvePoint, Diagnosis, Map
from redcloak.images import Picture, to_png_bytes
from redcloak.report.figures import ACCENT, FAINT, INK, STYLE, Plot, svg

MEMBERS = "class"
TITLES = {"pca": "PCA", "svd": "Truncated SVD", "tsne": "t-SNE", "umap": "UMAP"}
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def changes(diagnosis: Diagnosis, clip: str, scores: Sequence[str]) -> list[Plot]:
    """For each score, the change from the clean photos in each group, with its interval."""
    return [_changes(diagnosis, clip, name) for name in scores if _changed(diagnosis, clip, name)]


def clouds(diagnosis: Diagnosis, one: Map) -> Plot:
    """One map: a mark for each photo, by group; the class's own pictures stand behind."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 5.4), layout="constrained")
        axes = figure.subplots()
        looks = _looks(diagnosis)
        for name, points in one.points.items():
            axes.scatter(*np.asarray(points).reshape(-1, 2).T, label=name, **looks[name])
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color(FAINT)
        axes.legend(frameon=False, fontsize=10, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, handletextpad=0.2)
        title = f"{TITLES[one.kind]} of {one.clip}"
        element = svg(figure, title)
    return Plot(
        title, f"{title}: {', '.join(f'{len(points)} {name}' for name, points in one.points.items())}.", element
    )


def curves(points: Sequence[CurvePoint], score: str, title: str) -> Plot:
    """A score of generated pictures against training steps, a line for each arm."""
    arms = list(dict.fromkeys(point.arm for point in points))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.4), layout="constrained")
        axes = figure.subplots()
        for arm, look in zip(arms, _lines(), strict=False):
            mine = [point for point in points if point.arm == arm and score in point.scores]
            steps, found = [point.step for point in mine], [point.scores[score] for point in mine]
            axes.plot(steps, [each.estimate for each in found], label=arm, **look)
            axes.fill_between(
                steps, [each.low for each in found], [each.high for each in found], color=look["color"], alpha=0.1, lw=0
            )
        _bare(axes)
        axes.set_xlabel("training steps")
        axes.legend(frameon=False, fontsize=10)
        element = svg(figure, f"curve {title}")
    words = "; ".join(
        f"{point.arm} at {point.step}: {point.scores[score]}" for point in points if score in point.scores
    )
    return Plot(title, f"{title} against training steps. {words}.", element)


def heat(values: Sequence[Sequence[float]], side: int = 64) -> str:
    """A map of attention as a grey picture, its largest value white: a data URI."""
    grid = np.asarray(values, dtype=np.float64)
    grid = grid / max(float(grid.max()), 1e-12)
    scale = max(1, side // len(grid))
    grey = np.kron(np.rint(grid * 255), np.ones((scale, scale))).astype(np.uint8)
    picture: Picture = np.repeat(grey[:, :, None], 3, axis=2)
    return "data:image/png;base64," + base64.b64encode(to_png_bytes(picture)).decode()


def _changed(diagnosis: Diagnosis, clip: str, score: str) -> bool:
    found = [diagnosis.line(clip, one.name, score) for one in diagnosis.groups]
    return any(line is not None and line.change is not None and not isnan(line.change.estimate) for line in found)


def _changes(diagnosis: Diagnosis, clip: str, score: str) -> Plot:
    shown = [one for one in diagnosis.groups if one.role != "clean"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.55 + 0.37 * len(shown)), layout="constrained")
        axes = figure.subplots()
        for row, one in enumerate(shown):
            line = diagnosis.line(clip, one.name, score)
            if line and line.change:
                color = ACCENT if one.role == "protected" else INK
                axes.plot([line.change.low, line.change.high], [row, row], color=color, lw=2, solid_capstyle="round")
                axes.plot([line.change.estimate], [row], "o", color=color, markersize=6.5)
        axes.axvline(0, color=FAINT, linewidth=1, dashes=(3, 3), zorder=0)
        axes.set_yticks(range(len(shown)), [one.name for one in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        _bare(axes)
        title = f"{diagnosis.scores[score].title}"
        element = svg(figure, f"{clip} {title}")
    words = "; ".join(
        f"{one.name} {line.change}" for one in shown if (line := diagnosis.line(clip, one.name, score)) and line.change
    )
    return Plot(title, f"Change of {title} from the clean photos. {words}.", element)


def _bare(axes: Axes) -> None:
    axes.tick_params(length=0, pad=6)
    axes.locator_params(axis="x", nbins=6)
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=FAINT)


def _looks(diagnosis: Diagnosis) -> dict[str, dict[str, Any]]:
    """How each group is drawn: the clean photos filled, the protected in the page's accent, the rest by shape."""
    looks: dict[str, dict[str, Any]] = {MEMBERS: {"color": FAINT, "marker": ".", "s": 18, "zorder": 0}}
    shapes = {"purified": iter(MARKS * 9), "control": iter(("x", "+", "1", "2", "3", "4") * 9)}
    for one in diagnosis.groups:
        if one.role == "purified":
            looks[one.name] = {"facecolors": "none", "edgecolors": INK, "marker": next(shapes["purified"]), "s": 34}
        elif one.role == "control":
            looks[one.name] = {"color": INK, "marker": next(shapes["control"]), "s": 34}
        else:
            looks[one.name] = {"color": INK if one.name == CLEAN else ACCENT, "marker": "o", "s": 34, "zorder": 3}
    return looks


def _lines() -> list[dict[str, Any]]:
    """Clean, protected, and what is done about it: told apart by dashes, not by colour alone."""
    styles: list[dict[str, Any]] = [
        {"color": INK, "ls": "-"},
        {"color": ACCENT, "ls": "-"},
        {"color": ACCENT, "ls": "--"},
        {"color": INK, "ls": "--"},
        {"color": INK, "ls": ":"},
        {"color": FAINT, "ls": "-"},
    ]
    return [style | {"lw": 2, "marker": "o", "ms": 4} for style in styles]
