"""CLIP-I: likeness to the reference photos by CLIP's image tower, for subjects that need not be faces."""

from __future__ import annotations

from torch import Tensor

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig
from redcloak.models.features import mean_cosine

METHOD = Method(
    title="CLIP image similarity (CLIP-I)",
    cite="Ruiz et al., DreamBooth, CVPR 2023, section 4.2 (CLIP-I).",
    license="Apache-2.0; weights: that of the suite's CLIP",
    needs=("clip",),
    scores={"clip_i": Score("CLIP-I", True, -1, 1, "cosine", 8)},
)


class Config(MethodConfig):
    """Nothing to set: the model is the suite's CLIP."""


def clip_i(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """The mean cosine of each picture's CLIP embedding and those of all reference photos, ``(N,)``.

    It tells subjects apart less well than DINO does: CLIP sees "a dog", not this dog. Images ``(N, 3, H, W)`` in
    [0, 1], of which the middle square counts. Nothing is random.

    Raises:
        UserError: no reference.

    Cite: Ruiz et al., CVPR 2023, section 4.2. License: that of the suite's CLIP.
    """
    return {"clip_i": mean_cosine("clip_i", context.suite.clip.embed_images, images, context.reference)}
