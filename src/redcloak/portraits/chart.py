"""The chart of a face: a grid over (u, v) on which relief and pigment are painted before the face is turned.

Unit: half a head height. u runs to the right of the picture, v downwards; the eye line is near v = 0, the
crown at v = -1, the chin near v = 1. Painting on a fixed grid makes most shapes outer products.
"""

import cv2
import numpy as np

from redcloak.portraits.palette import Array

RESOLUTION = 72
LEFT, TOP = -1.0, -1.2
COLUMNS, ROWS = 2 * RESOLUTION + 1, int(2.45 * RESOLUTION) + 1
U: Array = (LEFT + np.arange(COLUMNS, dtype=np.float32) / RESOLUTION)[None, :]
V: Array = (TOP + np.arange(ROWS, dtype=np.float32) / RESOLUTION)[:, None]
Window = tuple[slice, slice]


def hump(x: Array, centre: float, spread: float) -> Array:
    """A Gaussian of height one along one axis."""
    hill: Array = np.exp(-np.square((x - np.float32(centre)) / np.float32(spread)))
    return hill


def bump(u: float, v: float, su: float, sv: float) -> Array:
    """A Gaussian hill of height one."""
    return hump(V, v, sv) * hump(U, u, su)


def pair(u: float, v: float, su: float, sv: float) -> Array:
    """The same hill on both halves of the face."""
    return hump(V, v, sv) * (hump(U, u, su) + hump(U, -u, su))


def soft(distance: Array, width: float = 0.02) -> Array:
    """One inside a shape (negative distance), zero outside, with an edge wide enough not to alias."""
    clipped: Array = np.clip(0.5 - distance / np.float32(width), 0.0, 1.0)
    return clipped


def window(u: float, v: float, ru: float, rv: float) -> Window:
    """The part of the grid around a point; small features are painted there only."""
    left, right = int((u - ru - LEFT) * RESOLUTION), int((u + ru - LEFT) * RESOLUTION) + 2
    top, bottom = int((v - rv - TOP) * RESOLUTION), int((v + rv - TOP) * RESOLUTION) + 2
    return slice(max(top, 0), bottom), slice(max(left, 0), right)


def paint(picture: Array, mask: Array, colour: Array) -> None:
    """Lay a colour over a (window of a) picture, in place."""
    picture += mask[..., None] * (colour - picture)


def cloud(seed: int, rows: int, columns: int) -> Array:
    """Smooth noise over the whole grid, about unit variance, with so many cells."""
    grid = np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(grid, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def sample(picture: Array, u: Array, v: Array) -> Array:
    """The picture's values at points of the face."""
    x, y = (u - np.float32(LEFT)) * RESOLUTION, (v - np.float32(TOP)) * RESOLUTION
    taken = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(taken, dtype=np.float32)
