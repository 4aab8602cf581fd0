"""The features painted on the chart: brows, eyes, nostrils, lips."""

import numpy as np

from redcloak.portraits.chart import U, V, hump, paint, soft, window
from redcloak.portraits.identity import Identity
from redcloak.portraits.palette import Array, linear
from redcloak.portraits.relief import Pose
from redcloak.portraits.shot import Shot

WHITE = linear((0.88, 0.86, 0.84))
DARK = linear((0.06, 0.04, 0.04))
TEETH = linear((0.92, 0.90, 0.84))
THROAT = linear((0.22, 0.06, 0.06))
IRIS_RADIUS = 0.054


def brows(person: Identity, face: Pose, picture: Array) -> None:
    """Both eyebrows, in the hair's colour but never lighter than can be seen."""
    colour = np.minimum(linear(person.hair_rgb), linear(person.skin_rgb) * 0.55) * 0.6
    for side in (-1, 1):
        centre, v = person.eye_gap * 1.02, face.brow_v + side * person.brow_skew
        where = window(side * centre, v, person.brow_length + 0.02, 0.20)
        x = (U[:, where[1]] * side - centre) / person.brow_length
        middle = v + person.brow_tilt * -0.22 * x - person.brow_arch * (1 - np.square(x - 0.25))
        thick = person.brow_thick * np.clip(1.15 - 0.5 * x - 0.35 * x**2, 0.25, 1.3)
        mask = soft(np.abs(V[where[0]] - middle) - thick, 0.03) * soft(np.abs(x) - 1, 0.2)
        paint(picture[where], mask * (0.45 + 0.55 * person.brow_dark), colour)


def eyes(person: Identity, face: Pose, shot: Shot, picture: Array) -> None:
    """Both eyes: crease, white, iris, pupil, highlight, lids and lashes."""
    for side in (-1, 1):
        where = window(side * person.eye_gap, face.eye_v, person.eye_width + 0.08, 0.20)
        outward = side * U[:, where[1]] - person.eye_gap
        _eye(person, face, shot, picture[where], outward, V[where[0]], side)


def _eye(person: Identity, face: Pose, shot: Shot, patch: Array, x: Array, v: Array, side: int) -> None:
    y = v - face.eye_v + person.eye_tilt * x
    s = np.clip(np.abs(x) / person.eye_width, 0, 1)
    opening = person.eye_height * (1 - 0.28 * face.smile + 0.15 * shot.brow_raise)
    upper, lower = -opening * (1 - s**2.2), 0.62 * opening * (1 - s**2)
    inside = soft(upper - y) * soft(y - lower) * soft(np.abs(x) - person.eye_width)
    near = soft(np.abs(x) - person.eye_width * 1.08, 0.04)
    fold = np.exp(-np.square((y - upper + person.lid) / 0.014)) * near
    patch *= (1 - 0.5 * min(1.0, person.lid / 0.02) * fold)[..., None]
    paint(patch, inside, WHITE)
    _iris(person, shot, patch, x - side * 0.035 * shot.look_x, y - 0.02 * shot.look_y, inside)
    patch *= (1 - 0.5 * inside * hump(y - upper, 0, 0.025))[..., None]  # the lid's shadow
    lash = 0.016 + (0.010 if person.woman else 0.0)
    thick = lash * (0.7 + 0.5 * x / person.eye_width)
    paint(patch, 0.92 * soft(np.abs(y - upper + 0.3 * lash) - thick) * near, DARK)
    paint(patch, 0.35 * np.exp(-np.square((y - lower - 0.006) / 0.012)) * near, DARK)


def _iris(person: Identity, shot: Shot, patch: Array, x: Array, y: Array, inside: Array) -> None:
    radius = np.sqrt(np.square(x) + np.square(y + 0.006))
    paint(patch, soft(radius - IRIS_RADIUS) * inside, linear(person.iris_rgb) * 0.8)
    paint(patch, np.exp(-np.square((radius - IRIS_RADIUS) / 0.010)) * 0.6 * inside, DARK)
    paint(patch, soft(radius - 0.024) * inside, DARK)
    glint = soft(np.hypot(x - 0.02, y + 0.03) - 0.011, 0.015)
    paint(patch, glint * inside, np.ones(3, dtype=np.float32))


def nostrils(person: Identity, face: Pose, picture: Array) -> None:
    """The nostrils and the shadowed edge of the wings."""
    colour = linear(person.skin_rgb) * 0.12
    for side in (-1, 1):
        u, v = side * person.nose_width * 0.5 + person.nose_bend, face.nose_v + 0.025
        where = window(u, v, 0.09, 0.08)
        x, y = U[:, where[1]] - u, V[where[0]] - v
        turned = y + 0.25 * side * x
        mask = np.exp(-np.square(x / (0.30 * person.nose_width + 0.012)) - np.square(turned / 0.020))
        paint(picture[where], 0.85 * mask, colour)
        edge = window(side * person.nose_width + person.nose_bend, face.nose_v - 0.02, 0.08, 0.12)
        wing = U[:, edge[1]] * side - person.nose_width * 1.02 - side * person.nose_bend
        shade = np.exp(-np.square(wing / 0.016)) * hump(V[edge[0]], face.nose_v - 0.01, 0.06)
        picture[edge] *= (1 - 0.5 * shade)[..., None]


def lips(person: Identity, face: Pose, picture: Array) -> None:
    """The mouth: both lips and what an open mouth shows."""
    wide, v = face.mouth_width, face.mouth_v
    where = window(0, v, wide + 0.12, 0.26)
    x, y = U[:, where[1]], V[where[0]] - v - person.mouth_skew * U[:, where[1]] / wide
    s = np.clip(np.abs(x) / wide, 0, 1)
    line = face.smile * (0.040 - 0.100 * s**2) + 0.010 * np.exp(-np.square(x / 0.04))
    rest = (1 - s**2) ** 0.7
    gap = (0.030 * face.smile + 0.095 * face.gape) * rest
    bow = 1 - 0.22 * np.exp(-np.square(x / 0.032))
    top = line - gap * 0.5 - person.lip_upper * (1 - 0.35 * face.smile) * rest * bow
    low = line + gap * 1.1 + person.lip_lower * (1 - 0.25 * face.smile) * rest
    _lips(person, face, picture[where], (y, line, gap, top, low), soft(np.abs(x) - wide, 0.02))


def _lips(person: Identity, face: Pose, patch: Array, rows: tuple[Array, ...], near: Array) -> None:
    y, line, gap, top, low = rows
    red = np.asarray((0.62, 0.16, 0.17), dtype=np.float32) * (0.35 + 0.65 * float(linear(person.skin_rgb)[0]))
    tone = linear(person.skin_rgb) * np.asarray((0.78, 0.55, 0.55), dtype=np.float32)
    colour = tone + person.lip_red * (red - tone)
    body = soft(top - y) * soft(y - low) * near
    paint(patch, 0.9 * body, colour)
    patch *= (1 - 0.22 * body * soft(y - line))[..., None]  # the upper lip faces down, away from the light
    inner = soft(line - gap * 0.5 - y) * soft(y - line - gap * 1.1) * near * np.clip(gap / 0.02, 0, 1)
    paint(patch, inner, THROAT)
    reach = 1.0 if face.smile else 0.35
    teeth = inner * soft(y - (line - gap * 0.5 + 1.5 * gap * reach))
    paint(patch, 0.95 * teeth, TEETH)
    seam = np.exp(-np.square((y - line) / 0.011)) * near * (1 - np.clip(gap / 0.02, 0, 1))
    paint(patch, 0.75 * seam, DARK)
    patch *= (1 - 0.35 * np.exp(-np.square((y - low - 0.02) / 0.02)) * near)[..., None]
