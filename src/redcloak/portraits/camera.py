"""From the face to the picture: rotation, solving for the point seen at a pixel, light."""

from dataclasses import dataclass

import numpy as np

from redcloak.portraits.chart import sample
from redcloak.portraits.palette import Array
from redcloak.portraits.shot import Shot

RISE = 0.15  # the head sits a little above the middle, to leave room for the shoulders


def rotation(shot: Shot) -> Array:
    """The head's rotation; the picture's axes are right, down and towards the viewer."""
    yaw, pitch, roll = np.radians((shot.yaw, shot.pitch, shot.roll))
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.asarray([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c, s = np.cos(pitch), np.sin(pitch)
    nod = np.asarray([[1, 0, 0], [0, c, s], [0, -s, c]])
    c, s = np.cos(roll), np.sin(roll)
    lean = np.asarray([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return np.asarray(lean @ nod @ turn, dtype=np.float32)


def light(shot: Shot) -> Array:
    """The unit vector towards the main light."""
    a, e = np.radians((shot.light_azimuth, shot.light_elevation))
    return np.asarray([np.sin(a) * np.cos(e), -np.sin(e), np.cos(a) * np.cos(e)], dtype=np.float32)


@dataclass(frozen=True)
class Camera:
    """Pixel positions in half head heights around the head's middle, and the head's rotation."""

    x: Array
    y: Array
    turn: Array
    step: float

    def plane(self, z: float) -> tuple[Array, Array]:
        """The (u, v) seen at each pixel on a plane fixed to the head at depth z."""
        inverse = np.linalg.inv(self.turn[:2, :2])
        x, y = self.x - self.turn[0, 2] * np.float32(z), self.y - self.turn[1, 2] * np.float32(z)
        return inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y

    def surface(self, relief: Array) -> tuple[Array, Array]:
        """The (u, v) seen at each pixel on the relief, by fixed-point iteration."""
        inverse = np.linalg.inv(self.turn[:2, :2])
        shift = inverse @ self.turn[:2, 2]
        u0, v0 = self.plane(0.0)
        z: Array = np.full_like(u0, 0.45)
        for _ in range(6):  # damped: near the outline the slope is close to what iteration can bear
            z = 0.35 * z + 0.65 * sample(relief, u0 - shift[0] * z, v0 - shift[1] * z)
        return u0 - shift[0] * z, v0 - shift[1] * z

    def project(self, u: float, v: float, z: float) -> tuple[float, float]:
        """Where a point of the head falls, in the units of x and y."""
        point = self.turn @ np.asarray((u, v, z), dtype=np.float32)
        return float(point[0]), float(point[1])


def camera(shot: Shot, size: int) -> Camera:
    """The camera of a shot, for a picture of so many pixels a side."""
    at = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2 / size) - 1
    scale = np.float32(shot.scale)
    x, y = np.meshgrid((at - shot.shift_x) / scale, (at - shot.shift_y + RISE) / scale)
    return Camera(x.astype(np.float32), y.astype(np.float32), rotation(shot), float(2 / size / scale))


def shade(albedo: Array, normal: Array, hollow: Array, lit: Array, shot: Shot, gloss: Array) -> Array:
    """Light leaving the surface: soft ambient, wrapped Lambert, a little gloss; hollows are darker."""
    towards, tint = light(shot), np.asarray(shot.light_rgb, dtype=np.float32)
    facing = normal @ towards
    direct = np.clip((facing + 0.15) / 1.15, 0, 1) * lit * np.float32(shot.key)
    sky = np.float32(shot.ambient) * (0.8 - 0.25 * normal[..., 1]) * np.clip(1 - 5.0 * hollow, 0.35, 1.15)
    halfway = towards + np.asarray((0, 0, 1), dtype=np.float32)
    shine = np.clip(normal @ (halfway / np.linalg.norm(halfway)), 0, 1) ** 16 * gloss * np.float32(shot.key)
    power = albedo * (direct + sky)[..., None] + (shine * lit)[..., None]
    return np.asarray(power * tint, dtype=np.float32)
