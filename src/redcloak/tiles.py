"""A large picture through a network in overlapping tiles, so that the peak of memory is that of a few."""

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


def enlarged(
    net: Callable[[Tensor], Tensor], pictures: Tensor, scale: int, side: int, margin: int, batch: int
) -> Tensor:
    """``(N, C, H, W)`` through a network that enlarges ``scale`` times, window by window, ``batch`` at a time.

    The windows have ``side`` pixels, of which ``margin`` at each inner edge are computed and dropped. Pictures that fit
    into one window pass whole.
    """
    high, wide = (
        list(spans(length, side, 1, margin)) if length > side else [(0, length, 0, length)]
        for length in pictures.shape[-2:]
    )
    places = [(row, down, across) for row in range(len(pictures)) for down in high for across in wide]
    result = pictures.new_empty(*pictures.shape[:2], *(length * scale for length in pictures.shape[-2:]))
    for begin in range(0, len(places), batch):
        part = places[begin : begin + batch]
        windows = torch.stack([pictures[row, :, y[2] : y[3], x[2] : x[3]] for row, y, x in part])
        for (row, y, x), large in zip(part, net(windows), strict=True):
            rows, columns = (slice(*(scale * place for place in (span[0], span[1]))) for span in (y, x))
            there = (slice(scale * (span[0] - span[2]), scale * (span[1] - span[2])) for span in (y, x))
            result[row, :, rows, columns] = large[(slice(None), *there)]
    return result


def spans(length: int, side: int, factor: int, margin: int = MARGIN) -> Iterator[tuple[int, int, int, int]]:
    """Of each tile along one side, in latents: where its middle begins and ends, and where its window does."""
    total, window = length // factor, side // factor
    middle = window - 2 * margin
    for begin in range(0, total, middle):
        end = min(begin + middle, total)
        first = max(0, min(begin - margin, total - window))
        yield begin, end, first, min(first + window, total)
