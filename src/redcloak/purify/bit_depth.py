"""Bit-depth reduction: fewer levels for each colour."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import MethodConfig

METHOD = Method(
    title="Bit-depth reduction",
    cite="Xu et al., Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks, NDSS 2018.",
)


class Config(MethodConfig):
    """How many levels are left."""

    bits: int = Field(5, ge=1, le=8, description="bits of each channel; 8 changes no picture that a file can hold")


def bit_depth(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Round each value to the nearest of ``2^bits`` levels, ``round(x (2^b - 1)) / (2^b - 1)``.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Nothing is random; not differentiable.

    Cite: Xu et al., NDSS 2018, section III-A. License: Apache-2.0.
    """
    highest = (1 << config.bits) - 1
    return (images.clamp(0, 1) * highest).round() / highest
