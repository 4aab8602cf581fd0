"""Pictures of any size through functions that want multiples of a number."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def on_grid(function: Callable[[Tensor], Tensor], images: Tensor, multiple: int) -> Tensor:
    """``function`` of images ``(N, C, H, W)`` padded at the right and the bottom, cut to what came in."""
    height, width = images.shape[-2:]
    below, beside = -height % multiple, -width % multiple
    mode = "reflect" if below < height and beside < width else "replicate"
    return function(F.pad(images, (0, beside, 0, below), mode=mode))[..., :height, :width]
