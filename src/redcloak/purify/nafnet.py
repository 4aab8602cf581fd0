"""NAFNet: denoising or deblurring without nonlinear activations. Weights from a file of yours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.models.restorers import NetworkConfig

METHOD = Method(
    title="NAFNet",
    cite="Chen et al., Simple Baselines for Image Restoration, ECCV 2022.",
    license="MIT (the network); that of the weights",
)


class Config(NetworkConfig):
    """The weights."""

    architectures: ClassVar[tuple[str, ...]] = ("NAFNet",)


def nafnet(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Pass whole pictures through a NAFNet.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Nothing is random.

    Cite: Chen et al., ECCV 2022. License: MIT (the network); that of the weights.
    """
    return config.network(context.suite.device)(images)
