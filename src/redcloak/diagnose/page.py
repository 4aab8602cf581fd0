"""``diagnose.html``: one self-contained page that loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence

from redcloak.diagnose.figures import changes, clouds, curves, heat
from redcloak.diagnose.groups import Group
from redcloak.diagnose.misalignment import OF_DECODED, OF_PHOTOS
from redcloak.diagnose.model import Diagnosis, findings, table
from redcloak.images import Picture, to_uint8
from redcloak.report.build import SHOWN, Thumb, data_uri
from redcloak.report.template import environment


def render(diagnosis: Diagnosis, groups: Sequence[Group], drawn: Sequence[Sequence[Picture]] = ()) -> str:
    """The page as text. The same diagnosis and pictures give the same page.

    ``drawn`` holds some pictures of each of ``diagnosis.extracts``.
    """
    return (
        environment("diagnose")
        .get_template("diagnose.html.j2")
        .render(
            diagnosis=diagnosis,
            findings=findings(diagnosis),
            views=[
                (clip, title, table(diagnosis, clip, names), changes(diagnosis, clip, names))
                for clip in diagnosis.clips
                for title, names in (("the photos", OF_PHOTOS), ("the photos after the autoencoder", OF_DECODED))
                if any(diagnosis.line(clip, one.name, name) for one in diagnosis.groups for name in names)
            ],
            maps=[clouds(diagnosis, one) for one in diagnosis.maps],
            strips=[(one.name, _thumbs(list(to_uint8(one.images[:SHOWN])), one.name)) for one in groups],
            extracts=[
                (extract, _thumbs(pictures, extract.name))
                for extract, pictures in zip(diagnosis.extracts, drawn, strict=True)
            ],
            heats=[(one, heat(one.map)) for one in diagnosis.attention],
            curves=_curves(diagnosis),
        )
    )


def _thumbs(pictures: Sequence[Picture], what: str) -> list[Thumb]:
    return [
        Thumb(data_uri(picture), f"{what}, number {number}") for number, picture in enumerate(pictures[:SHOWN], start=1)
    ]


def _curves(diagnosis: Diagnosis) -> list[object]:
    names = list(dict.fromkeys(name for point in diagnosis.curve for name in point.scores))
    return [curves(diagnosis.curve, name, name.replace("_", " ")) for name in names]
