"""Hair: what grows on the chart of the face, and the layers behind and beside the head."""

import cv2
import numpy as np

from redcloak.portraits.camera import Camera, light
from redcloak.portraits.chart import COLUMNS, ROWS, U, V, soft
from redcloak.portraits.identity import Identity
from redcloak.portraits.palette import Array, linear
from redcloak.portraits.relief import Pose
from redcloak.portraits.shot import Shot


def strands(person: Identity, u: Array, v: Array) -> Array:
    """Brightness of the hair at points of the head: streaks along the fall, or curls."""
    rng = np.random.default_rng(person.seed + 5)
    tile = rng.standard_normal((64, 64), dtype=np.float32)
    across, along, depth = (13.0, 13.0, 0.45) if person.style == "curly" else (20.0, 2.5, 0.28)
    bend = u + 0.15 * np.float32(person.parting) * v
    x, y = (bend * across + 640) % 63, (v * along + 640) % 63
    noise = cv2.remap(tile, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
    return np.asarray(np.clip(1 + depth * noise, 0.3, 2.0), dtype=np.float32)


def volume(person: Identity) -> float:
    """How far the hair stands off the skull."""
    return {"bald": 0.0, "short": 0.8, "long": 0.9, "curly": 2.4}[person.style] * person.hair_volume + 0.02


def cap(person: Identity, face: Pose, width: Array) -> Array:
    """Where hair covers the chart: above the hairline and before the ears."""
    if person.style == "bald":
        return np.zeros((ROWS, COLUMNS), dtype=np.float32)
    across = np.abs(U) / np.maximum(width, 0.08)
    top = person.hairline - 0.9 * person.recede * np.exp(-np.square((across - 0.5) / 0.22))
    top = top + 0.25 * person.recede * np.exp(-np.square(U / 0.1))
    if person.fringe:
        jag = 0.012 * np.sin(U * 41 + person.seed % 7) + 0.12 * person.parting * U
        top = np.maximum(top, face.brow_v - 0.05 + jag)
    side = 0.84 if person.style == "long" else 0.90
    rise = np.clip((0.2 - V) / np.maximum(0.2 - top, 0.1), 0, 2)
    edge = (across / side) ** person.hairline_square + rise**person.hairline_square
    mask = soft((1 - edge) * 0.25, 0.03)
    sideburn = 0.75 if person.style == "long" else 0.16
    below = np.where(V > 0.2, soft((side - across) * 0.5, 0.03), mask)
    return np.asarray(below * soft(V - sideburn, 0.06), dtype=np.float32)


def _tone(person: Identity, shot: Shot, u: Array, v: Array, radius: tuple[float, float]) -> Array:
    """Colour of a rounded mass of hair."""
    nx, ny = np.clip(u / radius[0], -1, 1), np.clip((v + 0.1) / radius[1], -1, 1)
    nz = np.sqrt(np.clip(1 - nx**2 - 0.6 * ny**2, 0.05, 1))
    towards = light(shot)
    facing = np.clip(nx * towards[0] + ny * towards[1] + nz * towards[2], 0, 1)
    power = (shot.ambient * 0.6 + shot.key * 0.75 * facing) * strands(person, u, v)
    tint = np.asarray(shot.light_rgb, dtype=np.float32) * linear(person.hair_rgb)
    return np.asarray(power[..., None] * tint, dtype=np.float32)


def back(person: Identity, shot: Shot, view: Camera) -> tuple[Array, Array]:
    """The hair behind the head: its cover and colour over the picture."""
    u, v = view.plane(-0.12)
    grown = volume(person)
    radius = (person.head_width + grown, 0.96 + grown)
    ring = np.sqrt(np.square(u / radius[0]) + np.square((v + 0.03) / radius[1]))
    if person.style == "curly":
        angle = np.arctan2(v, u)
        ring = ring + 0.025 * np.sin(angle * 23 + person.seed % 5) + 0.02 * np.sin(angle * 11)
    depth = 0.55 if person.style == "curly" else 0.35
    mask = soft((ring - 1) * radius[0], 0.04) * soft(v - depth, 0.2)
    if person.style == "long":
        fall = soft(np.abs(u) - radius[0] * (0.97 + 0.08 * np.clip(v, 0, 1)), 0.05)
        mask = np.maximum(mask, fall * soft(-v) * soft(v - 1.75, 0.1))
    return mask, 0.75 * _tone(person, shot, u, v, (radius[0] * 1.1, radius[1] * 1.1))


def curtain(person: Identity, shot: Shot, view: Camera) -> tuple[Array, Array]:
    """Long hair falling in front of the shoulders, beside the neck."""
    u, v = view.plane(0.0)
    outer = (person.head_width + volume(person)) * (1.0 + 0.10 * np.clip(v, 0, 2))
    inner = person.head_width * (0.80 - 0.12 * np.clip(v - 0.4, 0, 1))
    length = 1.15 + 2.0 * person.hair_volume + 3 * person.hair_volume * np.abs(u)
    beside = soft(np.abs(u) - outer, 0.05) * soft(inner - np.abs(u), 0.05)
    mask = beside * soft(-0.3 - v, 0.3) * soft(v - length, 0.1)
    return np.asarray(mask, dtype=np.float32), _tone(person, shot, u, v * 0.5, (person.head_width * 1.3, 1.3))
