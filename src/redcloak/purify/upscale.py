"""Super-resolution as a purifier: shrink the picture, then let the suite's x4 upscaler draw it anew."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from redcloak.api import Context, Method
from redcloak.config import MethodConfig

METHOD = Method(
    title="Super-resolution",
    cite="Liu et al., arXiv 2406.18944, section 4.2 (512 -> 128 -> 512 by the Stable Diffusion x4 upscaler).",
    license="Apache-2.0 (the small suite's own upscaler)",
    stochastic=True,
    needs=("upscaler",),
    differentiable=True,
)


class Config(MethodConfig):
    """How small the picture is made before it is enlarged four times."""

    shrink: float = Field(4.0, ge=1, le=8, description="side before / side after shrinking; the paper's is 4")
    noise_level: int = Field(20, ge=0, le=350, description="step of the upscaler's noise schedule added to its input")


def upscale(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Shrink by ``shrink``, enlarge x4 by the suite's upscaler, and bring to the size that came in.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Random: the noise of ``noise_level`` that the upscaler is
    told of, from ``generators[i]``.

    Cite: Liu et al., arXiv 2406.18944, section 4.2. License: Apache-2.0 with the small suite; that of the upscaler
    otherwise.
    """
    return redrawn(images, config.shrink, config.noise_level, context, generators)


def redrawn(
    images: Tensor,
    shrink: float,
    noise_level: int,
    context: Context,
    generators: Sequence[Generator],
    prompt: str | None = None,
    added: int | None = None,
) -> Tensor:
    """Images shrunk, drawn four times as large by the suite's upscaler, and brought to the size that came in.

    ``prompt`` is "a photo of a CLASS" by default; ``added`` the level of the noise that is really added.
    """
    height, width = images.shape[-2:]
    small = resize(images, max(1, round(height / shrink)), max(1, round(width / shrink)))
    words = prompt_of(context) if prompt is None else prompt
    large = context.suite.upscaler(small, words, noise_level, generators, added=added)
    return resize(large, height, width)


def prompt_of(context: Context) -> str:
    """What upscalers are told by default."""
    return f"a photo of a {context.subject.class_noun}"


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Bicubic with antialiasing, as Pillow resizes; ``(N, 3, H, W)`` in [0, 1]."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, size=(height, width), mode="bicubic", antialias=True).clamp(0, 1)
