"""WebP compression by Pillow's own codec."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import MethodConfig
from redcloak.images import to_tensor, to_uint8

METHOD = Method(title="WebP", cite="RFC 9649, WebP Image Format; Pillow's encoder (libwebp), lossy.")


class Config(MethodConfig):
    """Quality of the compression."""

    quality: int = Field(80, ge=1, le=100, description="Pillow's quality of lossy WebP; 80 is its default")


def webp(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Round to 8 bits, compress with loss, decompress.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Nothing is random; not differentiable.

    Cite: RFC 9649. License: Apache-2.0 (libwebp: BSD-3).
    """
    back = []
    for picture in to_uint8(images):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "WEBP", quality=config.quality)
        with Image.open(buffer) as compressed:
            back.append(np.asarray(compressed.convert("RGB")))
    return to_tensor(back).to(images)
