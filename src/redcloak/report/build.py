"""Write a report: one self-contained ``report.html``, with ``report.json`` and ``scores.parquet`` beside it.

The page loads nothing and runs nothing: pictures and figures are inside it, a content security policy forbids
the rest, and everything that a person supplied is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import yaml

from redcloak.api import Score
from redcloak.errors import UserError
from redcloak.images import Picture, fit, to_png_bytes
from redcloak.report.figures import one_by_one, perturbation, plots
from redcloak.report.model import PLOTTED, Arm, Report
from redcloak.report.table import Source, Table, write_whole
from redcloak.report.template import environment
from redcloak.stats import Estimate
from redcloak.stats.bootstrap import FEW

SHOWN = 6  # photos of an arm, and generated pictures of each of its seeds
LARGEST = 256  # pixels: a larger picture is embedded at this size, to keep the page light
WORDS = {
    "holds": "Holds",
    "does_not_hold": "Does not hold",
    "undecided": "Undecided",
    "no_effect": "No effect",
}


@dataclass(frozen=True)
class Drawn:
    """A generated picture ``(H, W, 3)`` uint8 with the prompt and the training seed it comes from."""

    image: Picture
    prompt: str
    seed: int


@dataclass(frozen=True)
class ArmPictures:
    """The pictures of one arm, uint8; each sequence may be empty, and its first few are shown.

    Attributes:
        photos: what the arm started from: clean or protected photos, before any purifier.
        clean: the originals of ``photos``, in the same order and size, where something was added to them.
        purified: ``photos`` after the purifiers, what the model was trained on.
        generated: what the model draws.
    """

    photos: Sequence[Picture] = ()
    clean: Sequence[Picture] = ()
    purified: Sequence[Picture] = ()
    generated: Sequence[Drawn] = ()


@dataclass(frozen=True)
class Thumb:
    """An embedded picture: its data URI, what it is, and the caption below it."""

    uri: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Strip:
    """A row of pictures under one heading; ``same_as`` names an arm above that shows the same ones."""

    title: str
    thumbs: tuple[Thumb, ...]
    same_as: str = ""


def build(report: Report, pictures: Mapping[str, ArmPictures], scores: Table, out: Path, shown: str = "") -> Path:
    """Write the three files into the folder ``out``, each whole or not at all, and return ``report.html``.

    Args:
        report: what the audit found.
        pictures: arm name -> its pictures; an arm without pictures has no strips.
        scores: the long table that the report was made from.
        out: an existing or a new folder; files of the same names in it are replaced.
        shown: whose pictures they are, where the report is of several subjects.

    Raises:
        UserError: the folder cannot be written.
    """
    page = render(report, pictures, shown)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}; choose another --out.") from None
    scores.write(out / "scores.parquet")
    write_whole(out / "report.json", report.to_json().encode())
    return write_whole(out / "report.html", page.encode())


def render(report: Report, pictures: Mapping[str, ArmPictures], shown: str = "") -> str:
    """The page as text. The same report and pictures give the same page."""
    templates = environment("report")
    templates.filters |= {
        "number": _number,
        "share": _share,
        "change": _change,
        "chance": _chance,
        "duration": _duration,
    }
    return templates.get_template("audit.html.j2").render(
        report=report,
        word=WORDS[report.verdict.word],
        arms={arm.name: arm for arm in report.arms},
        plots=plots(report, PLOTTED),
        lines=one_by_one(report, PLOTTED),
        compared=[row for row in report.rows if row.comparison],
        columns={source: _columns(report, source) for source in ("generated", "photos")},
        strips=_strips(report.arms, pictures),
        shown=shown,
        config=yaml.safe_dump(report.model_dump(mode="json")["config"], sort_keys=False, allow_unicode=True),
        restricted=[method for method in report.methods if not method.free],
        few_runs=_few_runs(report.verdict.interval),
        isnan=isnan,
    )


def _few_runs(interval: Estimate) -> bool:
    """Whether it speaks of so few training runs of one subject that it tends to be too short."""
    return interval.over == "pictures" or (interval.over == "seeds" and interval.clusters < FEW)


def _columns(report: Report, source: Source) -> list[str]:
    """The metrics that any arm was scored with, the verdict's own first."""
    used = {name for row in report.rows for name in getattr(row, source)}
    first = [report.verdict.metric] if report.verdict.metric in used else []
    return first + [name for name in report.metrics if name in used - {*first}]


def _strips(arms: Sequence[Arm], pictures: Mapping[str, ArmPictures]) -> dict[str, list[Strip]]:
    """The rows of pictures of each arm; a row already shown is named, not repeated."""
    shown: dict[tuple[Thumb, ...], str] = {}
    result = {}
    for arm in arms:
        strips = []
        for title, thumbs in _rows(pictures.get(arm.name, ArmPictures())):
            plain = tuple(Thumb(thumb.uri, "") for thumb in thumbs)
            strips.append(Strip(title, () if plain in shown else thumbs, shown.get(plain, "")))
            shown.setdefault(plain, arm.title)
        result[arm.name] = strips
    return result


def _rows(pictures: ArmPictures) -> Iterator[tuple[str, tuple[Thumb, ...]]]:
    added = [perturbation(*pair) for pair in zip(pictures.photos, pictures.clean, strict=False)]
    photos = {
        "Photos": pictures.photos,
        "What was added, ten times amplified": added,
        "Photos after purification": pictures.purified,
    }
    for title, images in photos.items():
        if images:
            thumbs = enumerate(images[:SHOWN], start=1)
            yield title, tuple(Thumb(data_uri(image), f"{title}, number {number}") for number, image in thumbs)
    for seed in dict.fromkeys(drawn.seed for drawn in pictures.generated):
        mine = [drawn for drawn in pictures.generated if drawn.seed == seed]
        yield f"Generated, seed {seed}", tuple(map(_generated, _spread(mine)))


def _spread(drawn: Sequence[Drawn]) -> list[Drawn]:
    """A few pictures that take turns between the prompts."""
    by_prompt = {one.prompt: [each for each in drawn if each.prompt == one.prompt] for one in drawn}
    longest = max(map(len, by_prompt.values()))
    turns = [group[turn] for turn in range(longest) for group in by_prompt.values() if turn < len(group)]
    return turns[:SHOWN]


def _generated(drawn: Drawn) -> Thumb:
    return Thumb(data_uri(drawn.image), f"Generated for “{drawn.prompt}” with seed {drawn.seed}", drawn.prompt)


def data_uri(image: Picture) -> str:
    """A picture as a page embeds it, large ones made smaller."""
    if max(image.shape[:2]) > LARGEST:
        image = fit(image, LARGEST)
    return "data:image/png;base64," + base64.b64encode(to_png_bytes(image)).decode()


def _number(value: float, score: Score) -> str:
    """A number with as many decimals as the range of its score asks for, and a real minus sign."""
    span = score.high - score.low
    decimals = 3 if span <= 2 else 2 if span <= 10 else 1
    return f"{value:.{decimals}f}".replace("-", "−")


def _change(value: float) -> str:
    """A difference with its sign."""
    return f"{value:+.3f}".replace("-", "−")


def _chance(p: float) -> str:
    """A p-value; none is said to be 0."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _share(value: float) -> str:
    return f"{value:.0%}".replace("-", "−")


def _duration(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
