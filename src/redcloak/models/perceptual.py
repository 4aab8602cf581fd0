"""A perceptual distance in the manner of LPIPS, on the features of the suite's own CLIP image tower."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def perceptual_distance(tower: Any, a: Tensor, b: Tensor) -> Tensor:
    """The squared distance of unit feature vectors, averaged over pixels and summed over stages: ``(N,)``.

    Images ``(N, 3, H, W)`` in [0, 1]. This is LPIPS with all its linear weights equal, on a tower of ours; on the
    suite ``tiny`` its figures cannot be compared with those of LPIPS on VGG.

    Cite: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, equation 1.
    """
    x, y = a * 2 - 1, b * 2 - 1
    total = torch.zeros(len(a), device=a.device)
    for stage in tower.body:
        x, y = stage(x), stage(y)
        total = total + (F.normalize(x, dim=1) - F.normalize(y, dim=1)).pow(2).sum(1).mean((1, 2))
    return total
