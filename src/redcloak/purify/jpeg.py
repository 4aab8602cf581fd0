"""JPEG compression by Pillow's own codec, the one a red team would use."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import MethodConfig
from redcloak.crafting.diffjpeg import diffjpeg
from redcloak.images import to_tensor, to_uint8

METHOD = Method(title="JPEG", cite="Liu et al., arXiv 2406.18944, appendix: quality 75.")


class Config(MethodConfig):
    """Quality of the compression."""

    quality: int = Field(75, ge=1, le=95, description="Pillow's quality; chroma is subsampled 4:2:0 as by default")


def jpeg(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Round to 8 bits, compress, decompress.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Nothing is random; not differentiable: adaptive protections
    see this codec's pictures and climb by the gradient of :mod:`redcloak.crafting.diffjpeg`.

    Cite: the baseline of Liu et al., arXiv 2406.18944. License: Apache-2.0.
    """
    back = []
    for picture in to_uint8(images):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=config.quality, subsampling="4:2:0")
        with Image.open(buffer) as compressed:
            back.append(compressed.convert("RGB"))
    return to_tensor([np.asarray(picture) for picture in back]).to(images)


def stand_in(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """The same compression as a function with a gradient, ``(N, 3, H, W)`` in [0, 1]."""
    return diffjpeg(images, config.quality)
