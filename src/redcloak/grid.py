"""Overlapping square tiles of a picture, and the picture that is their mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Tiles of one side at a stride of half of it, with further ones at the right and bottom edge.

    ``corners`` adds one tile, put together from the picture's four corner squares of half the side: these lie in one
    tile only, and at its corner.

    Cite: Zhao et al., "Can Protective Perturbation Safeguard Personal Data from Being Exploited by Stable Diffusion?",
    CVPR 2024 (GrIDPure).
    """

    height: int
    width: int
    side: int
    corners: bool = False

    @property
    def places(self) -> list[tuple[int, int]]:
        """The top left corner of each tile."""
        return [(y, x) for y in starts(self.height, self.side) for x in starts(self.width, self.side)]

    @property
    def quarters(self) -> list[tuple[slice, slice, slice, slice]]:
        """Where each corner square lies in the picture, and where in its tile."""
        half = self.side // 2
        near, far = slice(None, half), slice(self.side - half, None)
        high, wide = slice(self.height - half, None), slice(self.width - half, None)
        rows, columns = ((near, near), (high, far)), ((near, near), (wide, far))
        return [(y, x, inner_y, inner_x) for y, inner_y in rows for x, inner_x in columns]

    def cut(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` -> their tiles ``(N, K, C, side, side)``."""
        tiles = [images[..., y : y + self.side, x : x + self.side] for y, x in self.places]
        if self.corners:
            first, second, third, fourth = (images[..., high, wide] for high, wide, _, _ in self.quarters)
            tiles.append(torch.cat([torch.cat([first, second], -1), torch.cat([third, fourth], -1)], -2))
        return torch.stack(tiles, 1)

    def merge(self, tiles: Tensor) -> Tensor:
        """Tiles ``(N, K, C, side, side)`` -> images, each value the mean over the tiles that hold it."""
        total = tiles.new_zeros((len(tiles), tiles.shape[2], self.height, self.width))
        count = tiles.new_zeros((self.height, self.width))
        for index, (y, x) in enumerate(self.places):
            total[..., y : y + self.side, x : x + self.side] += tiles[:, index]
            count[y : y + self.side, x : x + self.side] += 1
        for high, wide, inner_high, inner_wide in self.quarters if self.corners else ():
            total[..., high, wide] += tiles[:, -1][..., inner_high, inner_wide]
            count[high, wide] += 1
        return total / count


def starts(length: int, side: int) -> list[int]:
    """Where tiles begin along one side of a picture."""
    begins = list(range(0, length - side + 1, side // 2))
    return begins if begins[-1] == length - side else [*begins, length - side]


def padded(images: Tensor, side: int) -> Tensor:
    """Images at least as high and wide as a tile: continued below and to the right as in mirrors."""
    height, width = images.shape[-2:]
    rows, columns = _mirrored(height, max(height, side)), _mirrored(width, max(width, side))
    return images[..., rows, :][..., columns]


def in_tiles(images: Tensor, side: int, purify: Callable[[Tensor], Tensor]) -> Tensor:
    """Images whose tiles ``(N, K, 3, side, side)`` are purified, laid back and averaged where they overlap."""
    height, width = images.shape[-2:]
    large = padded(images, side)
    grid = Grid(large.shape[-2], large.shape[-1], side)
    return grid.merge(purify(grid.cut(large)))[..., :height, :width]


def _mirrored(length: int, wanted: int) -> Tensor:
    """Which of ``length`` pixels stands at each of ``wanted`` places, the end pixels not repeated."""
    period = max(1, 2 * length - 2)
    offsets = torch.arange(wanted) % period
    return torch.minimum(offsets, period - offsets)
