"""The relief of a face: height towards the viewer over the chart, and where the head ends."""

from dataclasses import dataclass

import cv2
import numpy as np

from redcloak.portraits.chart import COLUMNS, RESOLUTION, ROWS, U, V, bump, cloud, hump, pair
from redcloak.portraits.identity import Identity
from redcloak.portraits.palette import Array
from redcloak.portraits.shot import Shot

DEPTH = 0.60


@dataclass(frozen=True)
class Pose:
    """Where this face's features are in this shot: the person's proportions moved by the expression."""

    smile: float
    gape: float
    eye_v: float
    brow_v: float
    nose_v: float
    mouth_v: float
    mouth_width: float
    chin_v: float


def pose(person: Identity, shot: Shot) -> Pose:
    """The expression, applied."""
    smile = shot.strength if shot.expression == "smiling" else 0.0
    gape = shot.strength if shot.expression == "open mouth" else 0.0
    nose = person.eye_v + person.nose_v
    return Pose(
        smile=smile,
        gape=gape,
        eye_v=person.eye_v,
        brow_v=person.eye_v - person.brow_v - 0.045 * shot.brow_raise,
        nose_v=nose,
        mouth_v=min(nose + person.mouth_v - 0.015 * smile, person.chin_v - 0.22) + 0.01 * gape,
        mouth_width=person.mouth_width * (1 + 0.22 * smile - 0.12 * gape),
        chin_v=person.chin_v + 0.05 * gape,
    )


def half_width(person: Identity, face: Pose) -> Array:
    """Half the head's width at every row of the chart; zero above the crown and below the chin."""
    v, chin = V, face.chin_v
    upper = np.clip(1 - np.abs(np.minimum(v, 0)) ** 2.9, 0, 1) ** 0.45
    knots = [0.0, 0.3, 0.64 * chin, 0.95 * chin]
    widths = [1.0, person.cheek_width, person.jaw_width, person.chin_width]
    ratio = np.interp(v[:, 0], knots, widths)
    ratio = np.convolve(np.pad(ratio, 8, mode="edge"), np.full(17, 1 / 17), mode="valid")[:, None]
    closing = np.clip(1 - (np.maximum(v, 0) / chin) ** person.chin_square, 0, 1) ** 0.5
    return np.asarray(person.head_width * ratio * upper * closing, dtype=np.float32)


def _skull(person: Identity, face: Pose, width: Array) -> Array:
    upper = np.clip(1 - (np.abs(np.minimum(V, 0)) / 1.03) ** 3, 0.02, 1) ** 0.5
    lower = np.clip(1 - (np.maximum(V, 0) / (face.chin_v * 1.04)) ** 8, 0.02, 1) ** 0.5
    across = np.minimum(np.abs(U) / np.maximum(width, 0.05), 1.12)
    round_ = np.clip(1 - (0.96 * np.minimum(across, 1)) ** 2.3, 0, 1) ** 0.58
    # Past the outline the side falls off at a finite slope, or solving for a turned head would not converge.
    return np.asarray(DEPTH * upper * lower * (round_ - 2.0 * np.maximum(across - 1, 0)), dtype=np.float32)


def _nose(person: Identity, face: Pose) -> Array:
    top, tip = face.eye_v - 0.04, face.nose_v - 0.04
    along = np.clip((V - top) / (tip - top), 0, 1)
    rise = person.bridge_height + (1 - person.bridge_height) * along**1.3
    rise = rise * np.clip((V - top + 0.16) / 0.16, 0, 1) * np.clip(1 - (V - tip) / 0.09, 0, 1) ** 0.8
    spread = person.bridge_width + (0.75 * person.nose_width - person.bridge_width) * along**2
    ridge = person.nose_height * rise * np.exp(-np.square((U - person.nose_bend * along) / spread))
    wings = 0.45 * person.nose_height * pair(person.nose_width * 0.72, face.nose_v - 0.01, 0.05, 0.05)
    tip_ball = person.nose_tip * bump(person.nose_bend, tip, 0.07, 0.06)
    return np.asarray(ridge + wings + tip_ball, dtype=np.float32)


def _eyes(person: Identity, face: Pose) -> Array:
    gap, v = person.eye_gap, face.eye_v
    hollow = -person.socket * pair(gap * 0.95, v - 0.02, 0.17, 0.11)
    ball = 0.045 * pair(gap, v, person.eye_width * 0.8, person.eye_height * 1.3 + 0.02)
    ridge = (0.02 + 0.35 * person.socket) * pair(gap * 0.9, face.brow_v + 0.02, 0.17, 0.06)
    bags = person.age * 0.015 * pair(gap, v + 0.12, 0.09, 0.03)
    return np.asarray(hollow + ball + ridge + bags, dtype=np.float32)


def _mouth(person: Identity, face: Pose) -> Array:
    v, wide = face.mouth_v, face.mouth_width
    upper = 0.035 * bump(0, v - 0.5 * person.lip_upper, wide * 0.8, person.lip_upper * 0.7)
    lower = 0.05 * bump(0, v + 0.6 * person.lip_lower, wide * 0.7, person.lip_lower * 0.7)
    muzzle = 0.04 * bump(0, v, wide * 1.2, 0.16)
    groove = -0.045 * bump(0, v + person.lip_lower + 0.06, 0.13, 0.04)
    chin = person.chin_ball * bump(0, face.chin_v - 0.14, 0.16, 0.10)
    return np.asarray(upper + lower + muzzle + groove + chin, dtype=np.float32)


def _cheeks(person: Identity, face: Pose) -> Array:
    width = person.head_width * person.cheek_width
    bone = (person.cheekbone + 0.02) * pair(width * 0.68, 0.24 - 0.03 * face.smile, 0.16, 0.11)
    apple = 0.05 * face.smile * pair(width * 0.52, 0.34, 0.12, 0.10)
    hollow = -person.hollow * pair(width * 0.68, 0.56, 0.13, 0.17)
    temple = -0.03 * pair(person.head_width * 0.85, -0.25, 0.12, 0.18)
    return np.asarray(bone + apple + hollow + temple, dtype=np.float32)


def _own(person: Identity) -> Array:
    """Relief without a name that only this face has, mostly symmetric."""
    field = cloud(person.seed, 12, 8)
    field = 0.85 * (field + field[:, ::-1]) + 0.3 * field
    return np.asarray(0.018 * field * hump(V, 0.2, 0.7), dtype=np.float32)


def height(person: Identity, face: Pose, width: Array) -> Array:
    """Height towards the viewer over the chart."""
    return np.asarray(
        _skull(person, face, width)
        + _nose(person, face)
        + _eyes(person, face)
        + _mouth(person, face)
        + _cheeks(person, face)
        + _own(person),
        dtype=np.float32,
    )


def slopes(relief: Array) -> Array:
    """Rise per unit of u and v, and how deep each point lies below its surroundings."""
    picture = np.empty((ROWS, COLUMNS, 3), dtype=np.float32)
    picture[..., 0] = cv2.Sobel(relief, cv2.CV_32F, 1, 0, scale=RESOLUTION / 8)
    picture[..., 1] = cv2.Sobel(relief, cv2.CV_32F, 0, 1, scale=RESOLUTION / 8)
    picture[..., 2] = cv2.GaussianBlur(relief, (0, 0), 0.07 * RESOLUTION) - relief
    return picture
