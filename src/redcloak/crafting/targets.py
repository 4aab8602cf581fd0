"""Target pictures of targeted protections: one's own, or a tiled pattern of high contrast."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from redcloak.errors import UserError
from redcloak.images import read_image, to_tensor


def target_image(path: Path | None, images: Tensor) -> Tensor:
    """The target ``(1, 3, H, W)`` in [0, 1] of images ``(N, 3, H, W)``.

    Raises:
        UserError: the picture cannot be read, or is not of the images' size.
    """
    if path is None:
        return pattern(*images.shape[-2:]).to(images)
    picture = to_tensor([read_image(path)])
    if picture.shape[-2:] != images.shape[-2:]:
        (height, width), (high, wide) = picture.shape[-2:], images.shape[-2:]
        raise UserError(
            f"target {path} is {width}x{height} and the photos are {wide}x{high}: make it {wide}x{high} pixels."
        )
    return picture.to(images)


def pattern(height: int, width: int) -> Tensor:
    """Black rings and diagonals on white, tiled four times a side: edges in every direction at the latent's scale."""
    tile = max(8, min(height, width) // 4)
    y, x = torch.meshgrid(torch.arange(height) % tile, torch.arange(width) % tile, indexing="ij")
    across, down = (x + 0.5) / tile - 0.5, (y + 0.5) / tile - 0.5
    ring = ((across**2 + down**2).sqrt() - 0.32).abs() < 0.09
    diagonal = (across - down).abs() < 0.07
    return (1 - (ring | diagonal).float()).expand(1, 3, -1, -1).contiguous()
