"""The leaderboard as one self-contained page: it loads nothing; its one script sorts tables, and runs by its hash.

Every cell opens its numbers, a few pictures, what ran, and the command that makes it again. Pictures are made small
and few enough that the page stays within a few megabytes whatever the matrix.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from redcloak.api import Interval
from redcloak.bench.board import Board, Standing, TeamCell
from redcloak.bench.grid import NO_BUDGET, Arm
from redcloak.bench.results import by
from redcloak.images import Picture, fit, list_images, read_image
from redcloak.report.names import CLEAN, PRIMARY
from redcloak.report.template import environment
from redcloak.runtime.matrix import Node
from redcloak.runtime.store import Artifact

LARGEST = 96  # pixels of a side
PICTURES = 6_000_000  # bytes of all pictures together
MOST = 6  # pictures of a cell
FEWEST = 2
UNLEARNT = "clean-did-not-learn"  # the red flag of a matrix in which there was nothing to protect

SCRIPT = """
for (const head of document.querySelectorAll("th[data-sort]")) {
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0], at = head.cellIndex;
    const up = head.getAttribute("aria-sort") === "descending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => row.cells[at].dataset.value ?? row.cells[at].textContent.trim();
    const number = head.dataset.sort === "number", none = row => number && Number.isNaN(Number(value(row)));
    const order = (a, b) => number ? Number(a) - Number(b) : a.localeCompare(b);
    const rows = [...body.rows], sign = up ? 1 : -1;
    rows.sort((a, b) => none(a) - none(b) || (none(a) ? 0 : sign * order(value(a), value(b))));
    rows.forEach(row => body.append(row));
  });
}
"""


@dataclass(frozen=True)
class Shown:
    """What a cell opens: pictures as data URIs with captions, what ran as YAML, and the command."""

    pictures: tuple[tuple[str, str], ...]
    config: str
    command: str


def page(board: Board, arms: Iterable[Arm], read: Callable[[Node], Artifact], out: Path, store: str) -> str:
    """The page as text."""
    templates = environment("bench")
    templates.filters |= {"signed": signed, "percent": percent, "bar": bar}
    return templates.get_template("board.html.j2").render(
        board=board,
        headline=headline(board),
        columns=board.teams,
        rows=board.rows,
        shown=_shown(board, by(arms, lambda arm: arm.axes[1:6]), read, out, store),
        span=_span(board.standings),
        config=yaml.safe_dump(board.config, sort_keys=False, allow_unicode=True),
        script=SCRIPT,
        script_hash=base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
        isnan=isnan,
        clean=CLEAN,
        score=_called(board),
        face=board.metric == PRIMARY,
    )


def headline(board: Board) -> str:
    """The first sentence of the page: what survives, if anything."""
    scored = [row for row in board.standings if not isnan(row.survives.estimate)]
    if not scored:
        return "No protection was scored."
    scored = [row for row in scored if row.complete]
    if not scored:
        return "Nothing can be ranked yet: no protection has met every red team with everybody."
    if all(UNLEARNT in row.flags for row in scored):
        return "Nothing can be said: from clean photos the models did not measurably learn the subjects."
    best, certain = scored[0], [row for row in scored if row.survives.low > 0]
    if not certain:
        return f"None of {len(scored)} protections measurably survives the strongest red team."
    who = f"{best.protection} at {best.budget}/255"
    also = f"{len(certain)} of {len(scored)} protections still take" if len(scored) > 1 else f"{who} still takes"
    what = f"some {_called(board).lower()}{_beyond(certain)}"
    return f"After the strongest red team {also} {what}; most, {signed(best.survives)}, {who}."


def _beyond(rows: list[Standing]) -> str:
    """How many of several rows take more than random noise does under the same red team, in words."""
    known = [row.beyond_noise for row in rows if row.beyond_noise]
    more = sum(each.low > 0 for each in known)
    if not known:
        return ""
    if len(rows) == 1:
        return f", {'' if more else 'not '}measurably more than random noise"
    return f", {more or 'none'} of them measurably more than random noise"


def _called(board: Board) -> str:
    """The name of the score that protections are ranked by."""
    return "Identity" if board.metric == PRIMARY else board.metric


def command(row: Standing, cell: TeamCell, out: Path, store: str) -> str:
    """What makes one cell again."""
    axes = {"protection": row.protection} | ({} if row.budget == NO_BUDGET else {"budget": row.budget})
    axes |= {"purifier": cell.purifier, "trainer": cell.trainer, "decoupling": cell.decoupling}
    only = ",".join(f"{axis}={label}" for axis, label in axes.items())
    words = ["redcloak", "bench", "run", str(out / "matrix.yaml"), "--only", only]
    return shlex.join([*words, "--out", f"{out}-cell", "--store", store])


def _shown(
    board: Board, arms: dict[Any, list[Arm]], read: Callable[[Node], Artifact], out: Path, store: str
) -> dict[tuple[str, ...], Shown]:
    """(protection, budget, purifier, trainer, decoupling) -> what its cell opens."""
    cells = [(row, cell) for row in board.rows for cell in row.cells]
    each, spent = max(PICTURES // max(len(cells), 1), 1), 0
    found: dict[tuple[str, ...], Shown] = {}
    for row, cell in cells:
        place = (row.protection, row.budget, cell.purifier, cell.trainer, cell.decoupling)
        pictures: list[tuple[str, str]] = []
        allowed = spent + each
        for caption, picture in _pictures(arms.get(place, []), read):
            uri = _uri(picture)
            if len(pictures) >= MOST or (len(pictures) >= FEWEST and spent + len(uri) > allowed):
                break
            spent += len(uri)
            pictures.append((uri, caption))
        keys = {one.axes.subject: one.scores.key[:12] for one in arms.get(place, [])}
        what = yaml.safe_dump(cell.ran | {"keys": keys}, sort_keys=False, allow_unicode=True)
        found[place] = Shown(tuple(pictures), what, command(row, cell, out, store))
    return found


def _pictures(arms: Sequence[Arm], read: Callable[[Node], Artifact]) -> Iterable[tuple[str, Picture]]:
    """In turns: a photo that the model was trained on, and what it draws; of one subject after another."""
    for arm, *_ in by(arms, lambda arm: arm.axes.subject).values():
        if arm.trained_on is not None:
            yield f"trained on ({arm.axes.subject})", _first(read(arm.trained_on).path)
        folder = read(arm.images).path
        prompts = json.loads((folder / "prompts.json").read_text("utf-8"))
        for prompt in dict.fromkeys(prompts.values()):
            name = next(name for name, words in prompts.items() if words == prompt)
            yield f"draws “{prompt}”", read_image(folder / "images" / name)


def _first(folder: Path) -> Picture:
    return read_image(list_images(folder / "images")[0])


def _uri(image: Picture) -> str:
    if max(image.shape[:2]) > LARGEST:
        image = fit(image, LARGEST)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=85, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _span(rows: Iterable[Standing]) -> tuple[float, float]:
    """The range of the bars: all intervals of the board, and 0."""
    ends = [end for row in rows for end in (row.survives.low, row.survives.high, row.survives.estimate)]
    ends = [end for end in ends if not isnan(end)]
    return min([0.0, *ends]), max([0.0, *ends, 0.01])


def bar(interval: Interval, span: tuple[float, float]) -> dict[str, float]:
    """Where an interval lies between the ends of the bars, in percent."""
    low, high = span

    def at(value: float) -> float:
        return round(100 * (value - low) / (high - low), 1)

    whole = isnan(interval.low)
    return {
        "zero": at(0.0),
        "dot": at(interval.estimate),
        "left": at(interval.estimate if whole else interval.low),
        "width": 0.0 if whole else round(at(interval.high) - at(interval.low), 1),
    }


def signed(interval: Interval) -> str:
    """``0.12 [0.05, 0.20]`` with real minus signs."""
    if isnan(interval.estimate):
        return "–"
    ends = "" if isnan(interval.low) else f" [{interval.low:.2f}, {interval.high:.2f}]"
    return f"{interval.estimate:.2f}{ends}".replace("-", "−")


def percent(interval: Interval) -> str:
    """``45% [30%, 60%]``."""
    ends = "" if isnan(interval.low) else f" [{interval.low:.0%}, {interval.high:.0%}]"
    return f"{interval.estimate:.0%}{ends}".replace("-", "−")
