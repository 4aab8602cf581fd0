"""No-reference quality by the suite's quality model."""

from __future__ import annotations

from torch import Tensor

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig

METHOD = Method(
    title="No-reference quality",
    cite="The place of LIQE: Zhang et al., Blind Image Quality Assessment via Vision-Language ..., CVPR 2023.",
    needs=("quality",),
    scores={"quality": Score("quality", True, 1, 5, "1 to 5", 8)},
)


class Config(MethodConfig):
    """Nothing to set: the model is the suite's."""


def quality(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """Quality of each picture from 1 (ruined) to 5 (as photographed), ``(N,)``.

    Images ``(N, 3, H, W)`` in [0, 1]. Nothing is random.

    Cite: the scale of LIQE, Zhang et al., CVPR 2023. License: that of the suite's quality model.
    """
    return {"quality": context.suite.quality(images)}
