"""A person and a shot become a picture."""

import cv2
import numpy as np
from numpy.typing import NDArray

from redcloak.portraits import features, hair, scene
from redcloak.portraits.camera import Camera, camera, light, shade
from redcloak.portraits.chart import COLUMNS, RESOLUTION, ROWS, V, paint, sample, soft
from redcloak.portraits.degrade import degrade
from redcloak.portraits.identity import Identity
from redcloak.portraits.palette import Array, linear
from redcloak.portraits.relief import Pose, half_width, height, pose, slopes
from redcloak.portraits.shot import Shot
from redcloak.portraits.skin import beard, skin


def _pigment(person: Identity, face: Pose, shot: Shot, width: Array, cover: Array) -> Array:
    """Everything painted on the face."""
    picture = skin(person, face)
    paint(picture, beard(person, face, width), linear(person.hair_rgb) * 0.8)
    features.lips(person, face, picture)
    features.nostrils(person, face, picture)
    features.eyes(person, face, shot, picture)
    features.brows(person, face, picture)
    if person.style == "bald":
        return picture
    grid_u, grid_v = np.meshgrid(np.linspace(-1, 1, COLUMNS, dtype=np.float32), V[:, 0])
    streaks = hair.strands(person, grid_u, grid_v)
    paint(picture, cover, linear(person.hair_rgb) * streaks[..., None])
    return picture


def _cast(relief: Array, towards: Array) -> Array:
    """How lit each point of the chart is: a march towards the light over the relief."""
    blocked = np.zeros_like(relief)
    for step in (0.06, 0.12, 0.2):
        du, dv, dz = step * towards / max(float(np.hypot(towards[0], towards[1])), 0.2)
        move = np.asarray([[1, 0, du * RESOLUTION], [0, 1, dv * RESOLUTION]], dtype=np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        there = cv2.warpAffine(relief, move, (COLUMNS, ROWS), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        blocked = np.maximum(blocked, there - relief - dz)
    return np.asarray(1 - 0.75 * np.clip(blocked / 0.05, 0, 1), dtype=np.float32)


def _head(person: Identity, face: Pose, shot: Shot, view: Camera) -> tuple[Array, Array, float]:
    """The lit head over the picture, its cover, and the depth at which glasses sit."""
    width = half_width(person, face)
    cover = hair.cap(person, face, width)
    bare = height(person, face, width)
    relief = bare + np.float32(0.9 * hair.volume(person)) * cv2.GaussianBlur(cover, (0, 0), 3.0)
    u, v = view.surface(relief)
    pigment = sample(_pigment(person, face, shot, width, cover), u, v)
    within = soft(np.abs(np.linspace(-1, 1, COLUMNS, dtype=np.float32))[None, :] - width + 0.01, 0.02)
    lit = cv2.GaussianBlur(_cast(relief, view.turn.T @ light(shot)), (0, 0), 1.2)
    surface = sample(np.dstack([slopes(relief), lit]), u, v)
    masks = sample(np.dstack([within, cover]), u, v)
    normal = np.dstack([-surface[..., 0], -surface[..., 1], np.ones_like(u)])
    normal = (normal / np.linalg.norm(normal, axis=2, keepdims=True)) @ view.turn.T
    colour = shade(pigment, normal, surface[..., 2], surface[..., 3], shot, 0.04 + 0.05 * masks[..., 1])
    row, column = int((face.eye_v + 1.2) * RESOLUTION), int((person.eye_gap + 1.0) * RESOLUTION)
    return masks[..., 0], colour, float(bare[row, column]) + 0.10


def render(identity: Identity, shot: Shot, size: int = 64) -> NDArray[np.uint8]:
    """The photo: (size, size, 3) RGB, the same for the same arguments."""
    fine = max(128, 2 * size)
    view, face = camera(shot, fine), pose(identity, shot)
    cover, colour, depth = _head(identity, face, shot, view)
    canvas = scene.background(shot, fine)
    if identity.style != "bald":
        scene.blend(canvas, *hair.back(identity, shot, view))
    fall = int(0.16 / view.step)
    shadow = cv2.blur(np.roll(cover, fall, axis=0), (fall, fall))
    scene.body(identity, face, shot, view, canvas, np.asarray(shadow, dtype=np.float32))
    scene.ears(identity, shot, view, identity.head_width * (0.5 + 0.5 * identity.cheek_width), canvas)
    if identity.style == "long":
        scene.blend(canvas, *hair.curtain(identity, shot, view))
    scene.blend(canvas, cover, colour)
    if identity.glasses:
        scene.glasses(identity, face, shot, view, depth, canvas)
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    encoded = np.clip(small, 0, 1) ** np.float32(1 / 2.2)
    return degrade(np.asarray(encoded * 255 + 0.5, dtype=np.uint8), shot)
