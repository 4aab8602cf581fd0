"""A large picture through an encoder in overlapping tiles, of which only one keeps its activations at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MARGIN = 8  # latents around a tile that are computed and dropped


def tiled(
    encode: Callable[[Tensor], tuple[Tensor, ...]], pictures: Tensor, side: int, factor: int
) -> tuple[Tensor, ...]:
    """Encode ``(N, C, H, W)`` tile by tile and lay the latents' middles side by side; differentiable.

    Each tile is ``side`` pixels with a margin of 8 latents, and is computed again for its gradient, so that the peak
    is that of one tile. Attention and group normalisation see a tile instead of the picture: the result is close to
    that of the whole, not the same.
    """
    rows = []
    for top, bottom, window_top, window_bottom in spans(pictures.shape[-2], side, factor):
        row = []
        for left, right, window_left, window_right in spans(pictures.shape[-1], side, factor):
            high = slice(window_top * factor, window_bottom * factor)
            wide = slice(window_left * factor, window_right * factor)
            window = pictures[..., high, wide]
            found = checkpoint(encode, window, use_reentrant=False) if torch.is_grad_enabled() else encode(window)
            middle = slice(top - window_top, bottom - window_top), slice(left - window_left, right - window_left)
            row.append([part[..., middle[0], middle[1]] for part in found])
        rows.append([torch.cat(parts, -1) for parts in zip(*row, strict=True)])
    return tuple(torch.cat(parts, -2) for parts in zip(*rows, strict=True))


def spans(length: int, side: int, factor: int) -> Iterator[tuple[int, int, int, int]]:
    """Of each tile along one side, in latents: where its middle begins and ends, and where its window does."""
    total, window = length // factor, side // factor
    middle = window - 2 * MARGIN
    for begin in range(0, total, middle):
        end = min(begin + middle, total)
        first = max(0, min(begin - MARGIN, total - window))
        yield begin, end, first, min(first + window, total)
