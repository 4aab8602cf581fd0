"""CLIP-IQA and CLIP-IQAC: quality as CLIP's choice between two opposite sentences."""

from __future__ import annotations

import torch
from torch import Tensor

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig

METHOD = Method(
    title="CLIP-IQA and CLIP-IQAC",
    cite="Wang et al., Exploring CLIP for Assessing the Look and Feel of Images, AAAI 2023; MetaCloak (IQAC).",
    license="Apache-2.0; weights: that of the suite's CLIP",
    needs=("clip",),
    scores={
        "clip_iqa": Score("CLIP-IQA", True, 0, 1, "share", 8),
        "clip_iqac": Score("CLIP-IQAC", True, -1, 1, "difference of shares", 8),
    },
)


class Config(MethodConfig):
    """Nothing to set: the model is the suite's CLIP."""


def clip_iqa(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """The share of "Good photo." against "Bad photo.", and the difference of the same two about the class, ``(N,)``.

    ``clip_iqa`` = softmax(100 cosine) of the first of the pair. ``clip_iqac`` = p("a good photo of X") - p("a bad photo
    of X"), where X is the class noun, "face" where that is "person". CLIP-IQA itself takes a ResNet-50
    without the embedding of places, so that any size goes in; here the suite's CLIP sees the middle square at its size.
    Images ``(N, 3, H, W)`` in [0, 1]. Nothing is random.

    Cite: Wang et al., AAAI 2023; Liu et al., MetaCloak, CVPR 2024. License: that of the suite's CLIP.
    """
    noun = "face" if context.subject.class_noun == "person" else context.subject.class_noun
    with torch.no_grad():
        plain = context.suite.clip.zero_shot(images, ["Good photo.", "Bad photo."])
        of_class = context.suite.clip.zero_shot(images, [f"a good photo of {noun}", f"a bad photo of {noun}"])
    return {"clip_iqa": plain[:, 0].cpu(), "clip_iqac": (of_class[:, 0] - of_class[:, 1]).cpu()}
