"""Pictures as feature extractors take them, and the mean cosine that fidelity to a subject is measured by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from redcloak.errors import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def middle(images: Tensor) -> Tensor:
    """The middle square of ``(N, C, H, W)``, as photos are fitted: a squeezed face is another face."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]


def resized(images: Tensor, side: int) -> Tensor:
    """The middle square at ``side`` x ``side``, bicubic with antialiasing, in [0, 1]."""
    images = middle(images)
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)


def normalised(images: Tensor, statistics: tuple[Sequence[float], Sequence[float]] = IMAGENET) -> Tensor:
    """Images in [0, 1] less a mean and by a standard deviation for each channel."""
    mean, spread = (torch.tensor(values, device=images.device)[:, None, None] for values in statistics)
    return (images - mean) / spread


def mean_cosine(name: str, embed: Callable[[Tensor], Tensor], images: Tensor, references: Tensor | None) -> Tensor:
    """The mean cosine of each picture to all reference pictures, ``(N,)``.

    Raises:
        UserError: there is no reference.
    """
    if references is None:
        raise UserError(f"{name}: it needs reference photos of the subject; give --reference.")
    with torch.no_grad():
        theirs, ours = (F.normalize(embed(each), dim=-1) for each in (references, images))
    return (ours @ theirs.T).clamp(-1, 1).mean(1).cpu()
