"""SwinIR: denoising, JPEG removal or super-resolution by shifted windows of attention. Weights from a file of yours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.models.restorers import NetworkConfig
from redcloak.purify.upscale import resize

METHOD = Method(
    title="SwinIR",
    cite="Liang et al., SwinIR: Image Restoration Using Swin Transformer, ICCVW 2021.",
    license="Apache-2.0 (the network); that of the weights",
)


class Config(NetworkConfig):
    """The weights."""

    architectures: ClassVar[tuple[str, ...]] = ("SwinIR",)


def swinir(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Pass whole pictures through a SwinIR; what it enlarges is brought back to the size that came in.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Nothing is random.

    Cite: Liang et al., ICCVW 2021. License: Apache-2.0 (the network); that of the weights.
    """
    restored = config.network(context.suite.device)(images)
    return resize(restored, *images.shape[-2:])
