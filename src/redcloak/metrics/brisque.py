"""BRISQUE: no-reference quality from natural scene statistics."""

from __future__ import annotations

import io
import pickle
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig
from redcloak.packages import folder, need
from redcloak.scenestats import fit, mscn

Floats = NDArray[np.float64]
PACKAGE = "brisque"
METHOD = Method(
    title="BRISQUE",
    cite="Mittal, Moorthy, Bovik, No-Reference Image Quality Assessment in the Spatial Domain, IEEE TIP 2012.",
    license="Apache-2.0 (the package brisque, whose regression on LIVE it is)",
    scores={"brisque": Score("BRISQUE", False, -200, 300, "0 to 100 on photos", 8)},
)


class Config(MethodConfig):
    """Nothing to set: the regression is that of the package ``brisque``."""

    def models(self) -> dict[str, str]:
        """The package's version."""
        return {PACKAGE: version(PACKAGE)}

    def check(self) -> None:
        """See that the package is there: its code is not used, only its two files of numbers."""
        need("brisque", PACKAGE, "0.2.0")


def brisque(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """How unnatural each picture is, ``(N,)``: about 10 for a clean photo, 50 for a noisy one, 75 for a blurred one.

    36 numbers that describe the normalised coefficients and the products of neighbours, at full and at half size, into
    a support vector regression of human scores. At the size the pictures have: figures at 64, 256 and 512 pixels do not
    compare. It is not bounded; nan for a picture without any texture. Images ``(N, 3, H, W)`` in [0, 1]. Nothing is
    random.

    Raises:
        UserError: the package is not installed.

    Cite: Mittal et al., IEEE TIP 2012. License: Apache-2.0.
    """
    config.check()
    grey = (images.double().cpu().numpy() * np.array([0.2125, 0.7154, 0.0721])[:, None, None]).sum(1)
    return {"brisque": torch.tensor([_regress(features(picture)) for picture in grey]).float()}


def features(grey: Floats) -> Floats:
    """The 36 numbers of a picture ``(H, W)`` in [0, 1]."""
    import cv2

    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    return np.concatenate([_at_one_size(grey), _at_one_size(np.asarray(half, np.float64))])


def _at_one_size(grey: Floats) -> Floats:
    m = mscn(grey, 1 / 255)
    own = fit(m)
    numbers = [own.alpha, (own.left**2 + own.right**2) / 2]
    pairs = (m[:, :-1] * m[:, 1:], m[:-1] * m[1:], m[:-1, :-1] * m[1:, 1:], m[1:, :-1] * m[:-1, 1:])
    for one in map(fit, pairs):
        numbers += [one.alpha, one.mean, one.left**2, one.right**2]
    return np.array(numbers)


def _regress(numbers: Floats) -> float:
    low, high, weights, vectors, gamma, rho = _model()
    scaled = -1 + 2 * (numbers - low) / (high - low)
    return float(weights @ np.exp(-gamma * ((vectors - scaled) ** 2).sum(1)) - rho)


class _Plain(pickle.Unpickler):
    """Reads lists of numbers and refuses whatever would call code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} in a file of numbers")


@lru_cache
def _model() -> tuple[Floats, Floats, Floats, Floats, float, float]:
    """Ranges, weights, support vectors, gamma and rho, from libsvm's text format."""
    place = folder(PACKAGE) / "models"
    ranges = _Plain(io.BytesIO((place / "normalize.pickle").read_bytes())).load()
    head, _, body = (place / "svm.txt").read_text(encoding="ascii").partition("SV\n")
    settings = dict(line.split(" ", 1) for line in head.splitlines() if " " in line)
    rows = [line.split() for line in body.splitlines() if line.strip()]
    vectors = np.zeros((len(rows), 36))
    for row, (_, *pairs) in enumerate(rows):
        for pair in pairs:
            column, value = pair.split(":")
            vectors[row, int(column) - 1] = float(value)
    weights = np.array([float(row[0]) for row in rows])
    low, high = (np.array(ranges[name], np.float64) for name in ("min_", "max_"))
    return low, high, weights, vectors, float(settings["gamma"]), float(settings["rho"])
