"""SCUNet: blind denoising of real pictures. Weights from a file of yours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.models.restorers import NetworkConfig

METHOD = Method(
    title="SCUNet",
    cite="Zhang et al., Practical Blind Image Denoising via Swin-Conv-UNet and Data Synthesis, MIR 2023.",
    license="Apache-2.0 (the network); that of the weights",
)


class Config(NetworkConfig):
    """The weights."""

    architectures: ClassVar[tuple[str, ...]] = ("SCUNet",)


def scunet(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Pass whole pictures through a SCUNet.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Nothing is random.

    Cite: Zhang et al., Machine Intelligence Research 2023. License: Apache-2.0 (the network); that of the weights.
    """
    return config.network(context.suite.device)(images)
