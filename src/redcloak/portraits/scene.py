"""All that is neither face nor hair: background, neck and clothes, ears, glasses."""

import cv2
import numpy as np

from redcloak.portraits.camera import Camera, light
from redcloak.portraits.chart import soft
from redcloak.portraits.identity import Identity
from redcloak.portraits.palette import Array, linear
from redcloak.portraits.relief import Pose
from redcloak.portraits.shot import Shot


def background(shot: Shot, size: int) -> Array:
    """The backdrop; every kind keeps the named hue."""
    rng = np.random.default_rng(shot.seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    a, b, phase = rng.uniform(-0.25, 0.25, 2), rng.uniform(4, 9, 2), rng.uniform(0, 6)
    if shot.backdrop == "gradient":
        gain = 1 + a[0] * x * 1.6 + a[1] * y * 1.6
    elif shot.backdrop == "blobs":
        grid = rng.uniform(-0.4, 0.35, (5, 5)).astype(np.float32)
        gain = 1 + cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    elif shot.backdrop == "stripes":
        gain = 1 + 0.09 * np.sign(np.sin(x * b[0] * 2 * a[0] / 0.25 + y * b[1] * 2 + phase))
    else:
        gain = 1 - 0.15 * (x**2 + y**2)
    picture = linear(shot.background_rgb) * np.clip(gain, 0.3, 1.6)[..., None]
    return np.asarray(np.clip(picture, 0, 1), dtype=np.float32)


def body(person: Identity, face: Pose, shot: Shot, view: Camera, canvas: Array, shadow: Array) -> None:
    """Neck, shoulders and clothes, which do not turn with the head; `shadow` is the head's, on them."""
    x, y, towards = view.x, view.y, light(shot)
    wide = person.neck_width + (0.0 if not person.woman else -0.04)
    flare = wide + 0.25 * np.clip(y - face.chin_v - 0.12, 0, 1) ** 1.5
    neck = soft(np.abs(x) - flare, 0.03) * soft(0.3 - y, 0.1)
    bow = np.clip(x / (wide * 1.1), -1, 1)
    facing = np.clip(bow * towards[0] + np.sqrt(1 - 0.9 * bow**2) * towards[2], 0, 1)
    power = (shot.ambient * 0.7 + 0.8 * shot.key * facing) * (1 - 0.6 * shadow)
    tint = np.asarray(shot.light_rgb, dtype=np.float32)
    blend(canvas, neck, power[..., None] * linear(person.skin_rgb) * tint)
    top = face.chin_v + 0.26 + 0.22 * np.clip(np.abs(x) - wide, 0, 3)
    dip = (0.10 + 0.30 * shot.neckline) * np.clip(1 - np.abs(x) / (wide * 1.25), 0, 1)
    cloth = soft(top + dip - y, 0.03)
    turn = np.clip(x / 1.5, -1, 1) * towards[0] + towards[2] * 0.8
    fold = 1 + 0.05 * np.sin(x * 9 + 3 * np.sin(y * 4 + shot.seed % 7))
    power = (shot.ambient * 0.8 + 0.75 * shot.key * np.clip(turn, 0.1, 1)) * fold * (1 - 0.25 * shadow)
    blend(canvas, cloth, power[..., None] * linear(shot.clothes_rgb) * tint)


def blend(canvas: Array, mask: Array, colour: Array) -> None:
    """Lay a layer over the picture, in place."""
    canvas += mask[..., None] * (colour - canvas)


def ears(person: Identity, shot: Shot, view: Camera, reach: float, canvas: Array) -> None:
    """Both ears, on a plane through the middle of the head."""
    u, v = view.plane(0.02)
    towards, wide = light(shot), 0.05 + person.ear_out
    for side in (-1, 1):
        x, y = (u * side - reach - 0.3 * person.ear_out) / wide, (v - 0.10) / person.ear_size
        ring = np.sqrt(np.square(x + 0.15 * y) + np.square(y))
        facing = 0.55 * towards[2] + 0.5 * side * towards[0]
        power = shot.ambient * 0.7 + shot.key * max(0.1, float(facing))
        inner = 1 - 0.45 * np.exp(-np.square((ring - 0.35) / 0.3))
        tone = linear(person.skin_rgb) * np.asarray((1.0, 0.88, 0.86), dtype=np.float32)
        blend(canvas, soft((ring - 1) * wide, 0.03), (power * inner)[..., None] * tone)


def glasses(person: Identity, face: Pose, shot: Shot, view: Camera, depth: float, canvas: Array) -> None:
    """Rims on a plane before the eyes, a bridge, and the arms to the ears."""
    u, v = view.plane(depth)
    wide, high = person.glasses_width, person.glasses_height
    centre = max(person.eye_gap, wide + 0.045)
    x, y = np.abs((np.abs(u) - centre) / wide), np.abs((v - face.eye_v - 0.03) / high)
    power = person.glasses_square
    ring = ((x**power + y**power) ** np.float32(1 / power) - 1) * min(wide, high)
    rim = soft(np.abs(ring) - person.glasses_rim, 0.02)
    bridge = soft(np.abs(v - face.eye_v + 0.01) - 0.015) * soft(np.abs(u) - (centre - wide) - 0.01)
    mask = np.maximum(rim, bridge)
    for side in (-1, 1):
        outer = view.project(side * (centre + wide), face.eye_v - 0.02, depth)
        ear = view.project(side * (person.head_width * 1.02), face.eye_v, 0.05)
        mask = np.maximum(mask, 0.9 * soft(_segment(view, outer, ear) - 0.014))
    glow = 0.05 * soft(ring, 0.02) * shot.key
    canvas += (glow * (1 - mask))[..., None]
    blend(canvas, mask, linear(person.rim_rgb) * np.float32(0.6 * shot.ambient + 0.6 * shot.key))


def _segment(view: Camera, a: tuple[float, float], b: tuple[float, float]) -> Array:
    """Each pixel's distance to a line between two points of the picture."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = np.clip(((view.x - a[0]) * dx + (view.y - a[1]) * dy) / (dx * dx + dy * dy + 1e-6), 0, 1)
    return np.asarray(np.hypot(view.x - a[0] - along * dx, view.y - a[1] - along * dy), dtype=np.float32)
