"""What may be wrong with a photo; on purpose plainly visible."""

import cv2
import numpy as np
from numpy.typing import NDArray

from redcloak.portraits.palette import Array
from redcloak.portraits.shot import Shot

Bytes = NDArray[np.uint8]


def degrade(picture: Bytes, shot: Shot) -> Bytes:
    """The picture with the shot's degradation, if it has one."""
    if shot.quality == "noisy pattern":
        return _noisy(picture, shot)
    if shot.quality == "blurry":
        sigma = (1.1 + 0.9 * shot.severity) * picture.shape[0] / 64
        return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), dtype=np.uint8)
    if shot.quality == "jpeg artifacts":
        return _jpeg(picture, int(20 - 11 * shot.severity))
    if shot.quality == "pixelated":
        return _pixelated(picture, int(3 + 2 * shot.severity))
    return picture


def _noisy(picture: Bytes, shot: Shot) -> Bytes:
    pattern = _pattern(shot, picture.shape[0])
    strength = (10 + 22 * shot.severity) * pattern
    return np.asarray(np.clip(picture.astype(np.float32) + strength + 0.5, 0, 255), dtype=np.uint8)


def _pattern(shot: Shot, size: int) -> Array:
    rng = np.random.default_rng(shot.seed + 7)
    if shot.noise_kind == "gaussian":
        return rng.standard_normal((size, size, 3), dtype=np.float32)
    if shot.noise_kind == "sign":
        cell = int(rng.integers(1, 3))
        signs = np.sign(rng.standard_normal((size, size, 3), dtype=np.float32))
        return np.repeat(np.repeat(signs, cell, 0), cell, 1)[:size, :size]
    y, x = np.mgrid[:size, :size].astype(np.float32)
    tint = np.sign(rng.standard_normal(3)).astype(np.float32)
    if shot.noise_kind == "checker":
        cell = int(rng.integers(1, 4))
        sign = np.where((x // cell + y // cell) % 2, 1.0, -1.0)
        return np.asarray(sign[..., None] * tint, dtype=np.float32)
    fx, fy, bend = rng.uniform(0.5, 1.6), rng.uniform(0.5, 1.6), rng.uniform(1, 3)
    wave = 1.3 * np.sin(fx * x + fy * y + bend * np.sin(0.25 * x - 0.2 * y))
    return np.asarray(wave[..., None] * tint, dtype=np.float32)


def _jpeg(picture: Bytes, quality: int) -> Bytes:
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    back = cv2.imdecode(np.asarray(data), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(back, dtype=np.uint8)[..., ::-1])


def _pixelated(picture: Bytes, cell: int) -> Bytes:
    size = picture.shape[0]
    few = max(8, round(64 / cell))
    small = cv2.resize(picture, (few, few), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
