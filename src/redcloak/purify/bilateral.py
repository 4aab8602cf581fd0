"""Bilateral filter: blurs over near pixels of like colour, so that edges stay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from redcloak.api import Context, Method
from redcloak.config import MethodConfig

METHOD = Method(
    title="Bilateral filter",
    cite="Tomasi and Manduchi, Bilateral Filtering for Gray and Color Images, ICCV 1998.",
    differentiable=True,
)


class Config(MethodConfig):
    """OpenCV's three numbers."""

    diameter: int = Field(9, ge=3, le=15, description="of the disc of neighbours, in pixels")
    sigma_color: float = Field(75.0, gt=0, le=765, description="of the colours' L1 distance, in 8-bit steps (/255)")
    sigma_space: float = Field(75.0, gt=0, description="of the distance in the picture, in pixels")


def bilateral(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Average the pixels of a disc, weighted by Gaussians of their distance and of their colour's.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Defined as OpenCV's ``bilateralFilter``: colours differ by the
    sum over channels of absolute differences, edges are reflected. Nothing is random.

    Cite: Tomasi and Manduchi, ICCV 1998. License: Apache-2.0.
    """
    height, width = images.shape[-2:]
    reach = min(config.diameter // 2, height - 1, width - 1)
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    total, weights = torch.zeros_like(images), torch.zeros_like(images[:, :1])
    for down in range(-reach, reach + 1):
        for across in range(-reach, reach + 1):
            away = down**2 + across**2
            if away > reach**2:
                continue
            there = padded[..., reach + down :, reach + across :][..., :height, :width]
            distance = (there - images).abs().sum(1, keepdim=True) * (255 / config.sigma_color)
            weight = torch.exp(-0.5 * (distance**2 + away / config.sigma_space**2))
            total, weights = total + weight * there, weights + weight
    return (total / weights).clamp(0, 1)
