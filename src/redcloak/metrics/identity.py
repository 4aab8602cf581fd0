"""Identity: is it the subject's face? Cosine of face embeddings, with failures kept apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig
from redcloak.errors import UserError

METHOD = Method(
    title="Identity and face detection",
    cite="Van Le et al., Anti-DreamBooth, ICCV 2023 (ISM, FDFR), with the suite's faces as the yardstick.",
    license="Apache-2.0; weights: that of the suite's faces",
    needs=("faces",),
    scores={
        "identity": Score("identity (ISM)", True, -1, 1, "cosine", 8),
        "identity_zero": Score("identity, no face = 0", True, -1, 1, "cosine", 8),
        "face_found": Score("face found", True, 0, 1, "share", 8),
    },
)


class Config(MethodConfig):
    """Nothing to set: the yardstick is the suite's face backend."""


def identity(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """Cosine of each picture's largest face to the mean reference face.

    Images ``(N, 3, H, W)`` in [0, 1]; references in ``context.reference``. Returns ``identity`` (nan where no face was
    found: the usual ISM averages over the rest and so flatters whatever destroys faces), ``identity_zero`` (0 there:
    free of that survivorship) and ``face_found`` (0 or 1). Nothing is random.

    Raises:
        UserError: no face was found in any reference photo.

    Cite: Van Le et al., ICCV 2023, section 5.1. License: Apache-2.0.
    """
    if context.reference is None:
        raise UserError("identity: it needs reference photos of the subject; give --reference.")
    known = context.suite.faces(context.reference)
    if not bool(known.found.any()):
        raise UserError("identity: no face was found in the reference photos, so nobody can be recognised in others.")
    centre = F.normalize(known.embeddings[known.found].mean(0), dim=0)
    faces = context.suite.faces(images)
    cosine = faces.embeddings @ centre
    return {
        "identity": cosine,
        "identity_zero": torch.where(faces.found, cosine, 0.0),
        "face_found": faces.found.float(),
    }
