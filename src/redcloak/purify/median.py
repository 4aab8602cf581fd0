"""Median filter: each value becomes the median of the window around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import MethodConfig

METHOD = Method(
    title="Median filter",
    cite="Xu et al., Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks, NDSS 2018.",
)


class Config(MethodConfig):
    """How large the window is."""

    window: int = Field(3, ge=2, le=15, description="side of the square window in pixels; where even, it leans up left")


def median(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Take the median of each channel in a square window, edges mirrored with their outermost pixel.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Of an even number of values the upper one of the middle two, as
    scipy has it. Not differentiable where two values tie, as they often do on 8-bit photos; adaptive protections send
    the gradient to the pixel that was picked. Nothing is random.

    Cite: Xu et al., NDSS 2018. License: Apache-2.0.
    """
    before, after = config.window // 2, (config.window - 1) // 2
    padded = images[..., mirrored(images.shape[-2], before, after), :][..., mirrored(images.shape[-1], before, after)]
    rank = config.window**2 // 2 + 1
    planes = []
    for plane in padded.flatten(0, 1):  # all windows of a whole batch at once would fill the memory
        windows = plane.unfold(0, config.window, 1).unfold(1, config.window, 1)
        planes.append(windows.flatten(-2).kthvalue(rank).values)
    return torch.stack(planes).view_as(images)


stand_in = median  # its slopes are right everywhere but at ties


def mirrored(length: int, before: int, after: int) -> Tensor:
    """Indices that extend an axis on both sides by its mirror image: ``b a | a b c | c b``."""
    places = torch.arange(-before, length + after) % (2 * length)
    return torch.minimum(places, 2 * length - 1 - places)
