"""Concept extraction: what a personalized model draws for each of its words alone.

A model that took a protection's noise for the subject draws noise for the identifier; one that was decoupled draws the
person there, and the noise for the noise token. So each word is asked for on its own, from the same starting noise, and
the answers are laid side by side.

Cite: Liu et al., arXiv 2406.18944, figures 2b and 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from redcloak.api import Subject
from redcloak.images import Picture, fit
from redcloak.prompts import Decoupling

SHEET = "concepts.png"
TITLES = {
    "identifier": "the identifier alone",
    "class_noun": "the class noun alone",
    "subject": "the subject",
    "noise_token": "the noise token alone",
    "with_noise": "the subject, noise named",
    "without_noise": "the subject, noise denied",
}
LEAST, LARGEST = 96, 256  # side of a picture on the sheet in pixels
INK, PAPER = (20, 20, 20), (255, 255, 255)


def prompts(subject: Subject, decoupling: Decoupling) -> dict[str, str]:
    """The prompt of each concept, in the order of :data:`TITLES`; with and without as training and sampling say it."""
    spoken = decoupling.model_copy(
        update={"train_suffix": True, "infer_suffix": True, "quality_tags": False},
    )
    return {
        "identifier": f"a photo of {subject.identifier}",
        "class_noun": subject.class_prompt,
        "subject": subject.instance_prompt,
        "noise_token": f"a photo of {decoupling.phrase}",
        "with_noise": spoken.instance(subject),
        "without_noise": spoken.sampling(subject.instance_prompt),
    }


def sheet(rows: Sequence[tuple[str, str, Sequence[Picture]]]) -> Picture:
    """Rows of pictures under a title and a prompt each: ``(H, W, 3)`` uint8.

    ``rows``: (title, prompt, square pictures). Pictures are brought to 96 to 256 pixels, whole multiples where small.
    """
    side = _side(rows[0][2][0].shape[0])
    gap, line = side // 12, max(14, side // 8)
    font = ImageFont.load_default(line * 3 // 4)
    words = [f"{title}: “{prompt}”" for title, prompt, _ in rows]
    across = max(len(pictures) for _, _, pictures in rows) * (side + gap) + gap
    wide = max(across, *(int(font.getlength(text)) + 2 * gap for text in words))
    tall = len(rows) * (line + side + 2 * gap) + gap
    page = Image.new("RGB", (wide, tall), PAPER)
    draw = ImageDraw.Draw(page)
    for row, (text, (_, _, pictures)) in enumerate(zip(words, rows, strict=True)):
        top = gap + row * (line + side + 2 * gap)
        draw.text((gap, top), text, INK, font)
        for column, picture in enumerate(pictures):
            page.paste(_scaled(picture, side), (gap + column * (side + gap), top + line + gap // 2))
    return np.array(page)


def _side(size: int) -> int:
    return size * -(-LEAST // size) if size < LEAST else min(size, LARGEST)


def _scaled(picture: Picture, side: int) -> Image.Image:
    if picture.shape[0] < side:  # small pictures keep their pixels
        return Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
    return Image.fromarray(fit(picture, side))
