"""Random transformations that a protection should survive, differentiable, one draw an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from redcloak.rng import rand


def flip_and_blur(images: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Mirror half of the images, and blur each by a 7-pixel Gaussian of sigma uniform in [0.1, 2] (MetaCloak's).

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Random: a flip and a sigma from each image's generator.
    """
    draws = rand(images[:, :2, :1, :1], generators).flatten(1)
    flipped = torch.where((draws[:, 0] < 0.5).view(-1, 1, 1, 1), images.flip(-1), images)
    sigma = 0.1 + 1.9 * draws[:, 1]
    return blur_each(flipped, sigma, reach=3)


def blur_each(images: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """Separable Gaussian blur with a sigma for each image, ``(N,)`` in pixels; edges reflected."""
    count, channels = images.shape[:2]
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernels = torch.exp(-(offsets**2) / (2 * sigma.to(images).view(-1, 1) ** 2))
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    stacked = F.pad(images, (reach,) * 4, mode="reflect").reshape(1, count * channels, *_grown(images, reach))
    across = F.conv2d(stacked, kernels.view(-1, 1, 1, 2 * reach + 1), groups=count * channels)
    down = F.conv2d(across, kernels.view(-1, 1, 2 * reach + 1, 1), groups=count * channels)
    return down.view_as(images)


def _grown(images: Tensor, reach: int) -> tuple[int, int]:
    return images.shape[-2] + 2 * reach, images.shape[-1] + 2 * reach
