"""AdverseCleaner: many bilateral filters, then guided filters that bring back the edges of the photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from redcloak.api import Context, Method
from redcloak.config import MethodConfig
from redcloak.purify.median import mirrored

METHOD = Method(
    title="AdverseCleaner",
    cite="Zhang, AdverseCleaner, 2023; He et al., Guided Image Filtering, IEEE TPAMI 35 (6), 2013.",
    license="Apache-2.0 (so is the original; written from its two formulas)",
)


class Config(MethodConfig):
    """The numbers of the original, on values from 0 to 255."""

    bilateral_passes: int = Field(64, ge=0, le=500, description="bilateral filters, one after the other")
    diameter: int = Field(5, ge=3, le=15, description="of the bilateral filter's disc, in pixels")
    sigma_color: float = Field(8.0, gt=0, description="of the bilateral filter, in 8-bit steps (/255)")
    sigma_space: float = Field(8.0, gt=0, description="of the bilateral filter, in pixels")
    guided_passes: int = Field(
        4, ge=0, le=100, description="guided filters; the guide of each is the photo that came in"
    )
    radius: int = Field(4, ge=1, le=32, description="of the guided filter's window, in pixels: side 2 r + 1")
    eps: float = Field(
        16.0, gt=0, description="of the guided filter: variance, in squared 8-bit steps, that it flattens"
    )


def adverse_cleaner(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Filter bilaterally 64 times, then guide the result by the photo four times.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. The guide is the perturbed photo itself, so that some of the
    perturbation comes back, as the author says. The bilateral filter is OpenCV's. The original cuts its result down to
    whole 8-bit steps; here it stays as it is. Nothing is random; not differentiable.

    Cite: Zhang, AdverseCleaner, 2023; He et al., TPAMI 2013. License: Apache-2.0.
    """
    guide = (images * 255).float().cpu()
    smooth = []
    for picture in guide.permute(0, 2, 3, 1).contiguous().numpy():
        for _ in range(config.bilateral_passes):
            picture = cv2.bilateralFilter(picture, config.diameter, config.sigma_color, config.sigma_space)
        smooth.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    result = torch.stack(smooth)
    guided = guided_filter(guide, config.radius, config.eps)
    for _ in range(config.guided_passes):
        result = guided(result)
    return (result / 255).clamp(0, 1).to(images)


def guided_filter(guide: Tensor, radius: int, eps: float) -> Callable[[Tensor], Tensor]:
    """The guided filter of a colour guide ``(N, 3, H, W)``: it maps pictures of that shape to filtered ones.

    In each window a picture is fitted by ``a . guide + b`` with a penalty of ``eps |a|^2``; a pixel becomes the mean of
    the fits of all windows that hold it (He et al., equations 16 to 18). Edges are mirrored, the last pixel twice, as
    in OpenCV.
    """
    mean = _box(guide, radius)
    covariance = _products(guide, guide, radius) - mean.unsqueeze(1) * mean.unsqueeze(2)
    matrices = covariance.permute(0, 3, 4, 1, 2) + eps * torch.eye(3)
    inverse = torch.linalg.inv(matrices.double()).to(guide)

    def apply(pictures: Tensor) -> Tensor:
        level = _box(pictures, radius)
        cross = _products(guide, pictures, radius) - mean.unsqueeze(2) * level.unsqueeze(1)
        slopes = torch.einsum("nhwij,njchw->nichw", inverse, cross)
        offset = level - (slopes * mean.unsqueeze(2)).sum(1)
        smooth = _box(slopes.flatten(1, 2), radius).view_as(slopes)
        return (smooth * guide.unsqueeze(2)).sum(1) + _box(offset, radius)

    return apply


def _products(a: Tensor, b: Tensor, radius: int) -> Tensor:
    """Windowed means of all products of a channel of ``a`` with one of ``b``: ``(N, 3, 3, H, W)``."""
    products = a.unsqueeze(2) * b.unsqueeze(1)
    return _box(products.flatten(1, 2), radius).view_as(products)


def _box(images: Tensor, radius: int) -> Tensor:
    rows, columns = (mirrored(length, radius, radius) for length in images.shape[-2:])
    return F.avg_pool2d(images[..., rows, :][..., columns], 2 * radius + 1, stride=1)
