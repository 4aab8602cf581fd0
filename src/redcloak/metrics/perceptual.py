"""Perceptual distance of a photo to its original on the suite's own CLIP tower: LPIPS's formula, not its weights."""

from __future__ import annotations

import torch
from torch import Tensor

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig
from redcloak.errors import UserError

METHOD = Method(
    title="Perceptual distance (the suite's own)",
    cite="Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018.",
    needs=("clip",),
    paired=True,
    scores={"perceptual": Score("perceptual distance", False, 0, 16, "squared, of unit features", 1)},
)


class Config(MethodConfig):
    """Nothing to set: the features are those of the suite's CLIP."""


def perceptual(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """The distance of each picture to its original in ``context.reference``, both as read from the saved files.

    The squared distance of unit feature vectors, averaged over places and summed over the four stages of the tower. Its
    figures compare within one suite, and with LPIPS's not at all: that is ``lpips``. Images ``(N, 3, H, W)`` in [0, 1].
    Nothing is random.

    Raises:
        UserError: an original is missing, or the suite's CLIP is not of ours.

    Cite: Zhang et al., CVPR 2018, equation 1. License: Apache-2.0.
    """
    original = context.reference
    if original is None or original.shape != images.shape:
        raise UserError("perceptual: it needs the original of each picture, of the same size and in the same order.")
    with torch.no_grad():
        return {"perceptual": context.suite.perceptual(images, original).cpu()}
