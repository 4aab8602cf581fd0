"""Gaussian blur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from redcloak.api import Context, Method
from redcloak.config import MethodConfig

METHOD = Method(
    title="Gaussian blur",
    cite="Liu et al., arXiv 2406.18944, appendix: kernel size 5 (the released code blurs with a radius of 5).",
    version=2,
    differentiable=True,
)


class Config(MethodConfig):
    """How wide the blur is: given directly, or by the variant."""

    variant: Literal["paper", "released"] = Field(
        "paper",
        description="paper: a kernel of 5 pixels, sigma 1.1; released: sigma 5, Pillow's radius=5",
    )
    sigma: float | None = Field(None, gt=0, description="standard deviation in pixels; overrides the variant")


def gaussian(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Convolve with a Gaussian, edges reflected; the paper's has 5 pixels, any other ends at four standard deviations.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Nothing is random.

    Cite: the baseline of Liu et al., arXiv 2406.18944. License: Apache-2.0.
    """
    if config.sigma is None and config.variant == "paper":
        return blur(images, 1.1, reach=2)
    return blur(images, config.sigma or 5.0)


def blur(images: Tensor, sigma: float, reach: int | None = None) -> Tensor:
    """Separable Gaussian blur of ``(N, C, H, W)``; ``reach`` pixels to each side, by default four deviations."""
    reach = int(4 * sigma + 0.5) if reach is None else reach  # rounded as scipy rounds it
    reach = min(reach, min(images.shape[-2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    padded = F.pad(images, (reach, reach, reach, reach), mode="reflect")
    across = F.conv2d(padded, kernel.unsqueeze(-2), groups=images.shape[1])
    return F.conv2d(across, kernel.unsqueeze(-1), groups=images.shape[1]).clamp(0, 1)
