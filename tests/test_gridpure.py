"""GrIDPure: the grid, what the model is shown, and what comes of its answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pixel import model_of, purify, silent, suited
from torch import Tensor

from redcloak.api import Context
from redcloak.errors import UserError
from redcloak.grid import Grid, in_tiles, padded, starts
from redcloak.images import on_lattice
from redcloak.models.pixel import PixelDiffusion
from redcloak.purify import gridpure
from redcloak.rng import generators
from redcloak.suite import Suite


@dataclass(frozen=True)
class Identity(PixelDiffusion):
    """A model that gives back what it is shown, and keeps it."""

    seen: list[Tensor] = field(default_factory=list)

    def purified(self, images, walk, generators):
        self.seen.append(images)
        return images


class Halving(Identity):
    """A model that darkens."""

    def purified(self, images, walk, generators):
        return super().purified(images, walk, generators) / 2


def identity(side: int) -> Identity:
    return Identity(**vars(model_of(silent, side=side)))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width", "tiles"), [(512, 512, 10), (512, 600, 13), (256, 256, 2), (100, 300, 3)])
def test_a_model_that_changes_nothing_is_shown_every_tile_once(height: int, width: int, tiles: int):
    model, images = identity(256), noise(2, 3, height, width)
    result = purify(gridpure, images, suited(model), rounds=3)
    assert torch.allclose(result, images, atol=1e-6)
    assert [shown.shape for shown in model.seen] == [(2, tiles, 3, 256, 256)] * 3


def test_the_unet_is_asked_in_batches_of_tiles():
    rows: list[int] = []

    def answer(state: Tensor, step: int) -> Tensor:
        rows.append(len(state))
        return torch.zeros_like(state)

    purify(gridpure, noise(2, 3, 64, 64), suited(model_of(answer, side=32)), rounds=1, steps=2, batch=8)
    assert rows == [8, 8, 4] * 2, "twenty tiles, twice"


def test_where_tiles_stand():
    assert starts(512, 256) == [0, 128, 256]
    assert starts(600, 256) == [0, 128, 256, 344]
    assert starts(256, 256) == [0]
    assert starts(64, 16) == [0, 8, 16, 24, 32, 40, 48]
    assert Grid(512, 600, 256).places[:5] == [(0, 0), (0, 128), (0, 256), (0, 344), (128, 0)]


def test_the_last_tile_is_put_together_from_the_corners():
    images = noise(1, 3, 80, 100)
    last = Grid(80, 100, 32, corners=True).cut(images)[:, -1]
    assert torch.equal(last[..., :16, :16], images[..., :16, :16])
    assert torch.equal(last[..., :16, 16:], images[..., :16, -16:])
    assert torch.equal(last[..., 16:, :16], images[..., -16:, :16])
    assert torch.equal(last[..., 16:, 16:], images[..., -16:, -16:])


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize(("height", "width"), [(40, 52), (32, 32), (33, 64)])
def test_a_value_is_the_mean_over_the_tiles_that_hold_it(height: int, width: int, corners: bool):
    grid = Grid(height, width, 32, corners)
    tiles = noise(1, len(grid.places) + corners, 1, 32, 32)
    held: list[list[list[float]]] = [[[] for _ in range(width)] for _ in range(height)]
    for y in range(height):
        for x in range(width):
            for index, (top, left) in enumerate(grid.places):
                if top <= y < top + 32 and left <= x < left + 32:
                    held[y][x].append(float(tiles[0, index, 0, y - top, x - left]))
            if corners and min(y, height - 1 - y) < 16 and min(x, width - 1 - x) < 16:
                row = y if y < 16 else 32 - (height - y)
                column = x if x < 16 else 32 - (width - x)
                held[y][x].append(float(tiles[0, -1, 0, row, column]))
    expected = torch.tensor([[sum(values) / len(values) for values in line] for line in held])
    if min(height, width) > 32:
        assert torch.allclose(grid.merge(tiles)[0, 0], expected, atol=1e-6)
    else:  # corner squares meet where the picture is one tile high: only their cover is simple to count
        assert torch.allclose(grid.merge(torch.full_like(tiles, 0.3)), torch.full((1, 1, height, width), 0.3))


@pytest.mark.parametrize(("height", "width"), [(20, 30), (32, 17), (5, 40), (1, 1)])
def test_a_small_picture_is_continued_as_in_a_mirror(height: int, width: int):
    images = noise(2, 3, height, width)
    rows = np.pad(images.numpy(), ((0, 0), (0, 0), (0, max(0, 32 - height)), (0, max(0, 32 - width))), mode="reflect")
    assert np.array_equal(padded(images, 32).numpy(), rows)


def test_a_picture_that_is_large_enough_is_left_alone():
    images = noise(1, 3, 33, 32)
    assert torch.equal(padded(images, 32), images)


def test_tiles_are_laid_back_without_a_seam():
    images = noise(2, 3, 50, 70)
    assert torch.allclose(in_tiles(images, 32, lambda tiles: tiles), images, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.7])
def test_each_round_keeps_a_share_of_the_picture(gamma: float):
    images = 0.2 + 0.6 * noise(1, 3, 64, 64)

    halving = Halving(**vars(model_of(silent, side=32)))
    result = purify(gridpure, images, suited(halving), rounds=3, gamma=gamma)
    assert torch.allclose(result, images * ((1 - gamma) / 2 + gamma) ** 3, atol=1e-6)


def test_the_released_code_cuts_to_grey_levels_after_each_round():
    images = on_lattice(noise(1, 3, 64, 64))
    model = Halving(**vars(model_of(silent, side=32)))
    result = purify(gridpure, images, suited(model), rounds=2, gamma=0.1317, variant="released")
    first = (images.double() * 255 * 0.56585).floor()
    assert torch.allclose(result.double() * 255, (first * 0.56585).floor(), atol=1e-3)
    plain = purify(gridpure, images, suited(model), rounds=2, gamma=0.1317)
    assert 1e-4 < (plain - result).max() < 2 / 255
    assert (result <= plain + 1e-6).all()


@pytest.mark.parametrize(("height", "width", "batch"), [(64, 64, 16), (80, 72, 3), (64, 64, 1)])
def test_all_tiles_together_are_one_crop_at_a_time(
    height: int, width: int, batch: int, suite: Suite, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    from gridpure import one_crop_at_a_time

    images = noise(2, 3, height, width)
    expected = one_crop_at_a_time(images, suite.pixel, 32, 3, 2, 0.1, generators(0, "p", 2))
    ours = purify(gridpure, images, Context(suite), steps=3, rounds=2, batch=batch)
    assert torch.allclose(ours, expected, atol=1e-5)
    assert not torch.allclose(ours, images, atol=1e-2)


def test_a_smaller_window_means_more_tiles(photos: Tensor, context: Context):
    native, small = (purify(gridpure, photos, context, steps=2, rounds=1, window=side) for side in (None, 16))
    assert torch.equal(native, purify(gridpure, photos, context, steps=2, rounds=1, window=32))
    assert not torch.allclose(native, small, atol=1e-4)
    with pytest.raises(UserError, match="window = 31: the pixel model takes multiples of 2; give 32"):
        purify(gridpure, photos, context, window=31)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_gradients_flow_through_every_round(variant: str, photos: Tensor, context: Context):
    images = photos[:1].clone().requires_grad_(True)
    result = purify(gridpure, images, context, steps=1, rounds=2, variant=variant)
    assert result.requires_grad
    (gradient,) = torch.autograd.grad(result.sum(), images)
    assert (gradient != 0).float().mean() > 0.9
