"""Subject detection score: is there a person, or a thing of the class, in the picture at all?"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig

METHOD = Method(
    title="Subject detection score",
    cite="Liu et al., MetaCloak, CVPR 2024 (there abbreviated SDS, which is also score distillation).",
    license="Apache-2.0; weights: that of the suite's faces and CLIP",
    needs=("faces", "clip"),
    scores={"subject_detection": Score("subject detection", True, -1, 1, "confidence, or a difference", 8)},
)


class Config(MethodConfig):
    """What detects."""

    by: Literal["auto", "faces", "clip"] = Field(
        "auto", description="faces: the detector's confidence; clip: two prompts; auto: faces where the class is people"
    )


def subject_detection(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """The confidence that each picture shows what it should, ``(N,)``, whoever it is.

    Of people: the score of the largest face by the suite's detector, 0 where there is none, in [0, 1]. Of other things:
    the share that CLIP gives to "a picture of X" less that of "a picture of non-X", in [-1, 1]. Images
    ``(N, 3, H, W)`` in [0, 1]; X is the class noun. Nothing is random.

    Cite: Liu et al., MetaCloak, CVPR 2024. License: that of the suite's models.
    """
    noun = context.subject.class_noun
    people = context.subject.is_human if config.by == "auto" else config.by == "faces"
    if people:
        return {"subject_detection": context.suite.faces(images).scores.float()}
    with torch.no_grad():
        share = context.suite.clip.zero_shot(images, [f"a picture of {noun}", f"a picture of non-{noun}"])
    return {"subject_detection": (share[:, 0] - share[:, 1]).cpu()}
