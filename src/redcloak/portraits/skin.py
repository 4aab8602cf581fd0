"""Skin on the chart: pigment, redness, spots, the lines of age, and beard."""

import numpy as np

from redcloak.portraits.chart import U, V, bump, cloud, hump, paint, pair, soft, window
from redcloak.portraits.identity import Identity
from redcloak.portraits.palette import Array, linear
from redcloak.portraits.relief import Pose

Point = tuple[float, float]


def skin(person: Identity, face: Pose) -> Array:
    """The bare skin, as reflectance in linear light."""
    mottle = 1 + 0.05 * cloud(person.seed + 1, 10, 8)
    picture = np.asarray(linear(person.skin_rgb) * mottle[..., None], dtype=np.float32)
    width = person.head_width
    flush = pair(0.62 * width, 0.30, 0.15, 0.13) + 0.7 * bump(0, face.nose_v - 0.04, 0.09, 0.08)
    flush = (0.10 + 0.30 * person.redness) * flush
    picture[..., 1] *= 1 - flush
    picture[..., 2] *= 1 - flush
    picture *= (1 - 0.25 * pair(person.eye_gap, face.eye_v, 0.13, 0.09))[..., None]
    _spots(person, picture)
    _lines(person, face, picture)
    return picture


def _spots(person: Identity, picture: Array) -> None:
    rng = np.random.default_rng(person.seed + 2)
    brown = linear(person.skin_rgb) * np.asarray((0.45, 0.30, 0.22), dtype=np.float32)
    for _ in range(person.freckles):
        u, v = rng.normal(0, 0.28), rng.normal(0.25, 0.12)
        _dot(picture, float(u), float(v), 0.016, 0.55, brown)
    for u, v in person.moles:
        _dot(picture, u, v, 0.025, 0.85, brown * 0.3)


def _dot(picture: Array, u: float, v: float, radius: float, strength: float, colour: Array) -> None:
    where = window(u, v, 3 * radius, 3 * radius)
    mask = strength * hump(V[where[0]], v, radius) * hump(U[:, where[1]], u, radius)
    paint(picture[where], mask, colour)


def crease(picture: Array, centre: Point, reach: Point, bend: float, depth: float) -> None:
    """A dark line across a window: reach = (half length, half thickness), bend = sag in the middle."""
    (u, v), (long, thick) = centre, reach
    where = window(u, v, long, abs(bend) + 3 * thick)
    x = (U[:, where[1]] - u) / long
    line = np.exp(-np.square((V[where[0]] - v - bend * (1 - np.square(x))) / thick))
    picture[where] *= (1 - depth * line * np.clip(1.2 - x**4 * 1.2, 0, 1))[..., None]


def _lines(person: Identity, face: Pose, picture: Array) -> None:
    old = max(0.0, person.age - 0.3) / 0.7
    if old > 0:
        for k in range(3):
            crease(picture, (0, face.brow_v - 0.13 - 0.085 * k), (0.36, 0.012), -0.02, 0.55 * old)
        for side in (-1, 1):
            corner = side * (person.eye_gap + person.eye_width + 0.05)
            crease(picture, (corner, face.eye_v + 0.02), (0.05, 0.010), 0.01, 0.4 * old)
            crease(picture, (corner, face.eye_v - 0.03), (0.05, 0.010), -0.02, 0.4 * old)
            crease(picture, (side * person.eye_gap, face.eye_v + 0.10), (0.11, 0.014), 0.03, 0.5 * old)
    _folds(person, face, picture)


def _folds(person: Identity, face: Pose, picture: Array) -> None:
    """The lines from the nose to the corners of the mouth: by person, age and smile."""
    depth = min(0.75, 0.28 * person.fold + 0.40 * person.age + 0.3 * face.smile)
    top, bottom = face.nose_v - 0.02, face.mouth_v + 0.04
    start, end = person.nose_width + 0.03, face.mouth_width + 0.06
    along = np.clip((V - top) / (bottom - top), 0, 1)
    line = np.exp(-np.square((np.abs(U) - start - (end - start) * along**1.5) / 0.018))
    inside = soft(np.abs(V - (top + bottom) / 2) - (bottom - top) / 2, 0.08)
    picture *= (1 - depth * line * inside)[..., None]


def beard(person: Identity, face: Pose, width: Array) -> Array:
    """How much of the skin hair covers, over the chart."""
    if person.beard == "no beard":
        return np.zeros((V.size, U.size), dtype=np.float32)
    grain = 1 + 0.25 * cloud(person.seed + 3, 60, 50)
    lip_top, lip_low = face.mouth_v - person.lip_upper, face.mouth_v + person.lip_lower
    sag = np.square(U / (face.mouth_width * 1.35))
    above = soft(face.nose_v + 0.055 + 0.10 * sag - V, 0.04) * soft(V - lip_top - 0.015 - 0.12 * sag, 0.03)
    moustache = above * soft(np.abs(U) - face.mouth_width * 1.2, 0.06)
    if person.beard == "moustache":
        return np.asarray(np.clip(moustache * grain, 0, 1) * 0.95, dtype=np.float32)
    lips = np.square(U / (face.mouth_width + 0.02)) + np.square(
        (V - (lip_top + lip_low) / 2) / ((lip_low - lip_top) / 2 + 0.015)
    )
    across = np.abs(U) / np.maximum(width, 0.05)
    cheek = face.mouth_v + 0.06 - 0.50 * np.clip(across - 0.25, 0, 1) ** 1.3 + 0.02
    full = np.maximum(soft(cheek - V, 0.08), moustache) * soft(1 - lips, 0.25)
    strength = 0.42 if person.beard == "stubble" else 0.97
    return np.asarray(np.clip(full * grain * strength, 0, 1), dtype=np.float32)
