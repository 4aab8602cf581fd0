from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from redcloak.api import Budget
from redcloak.crafting.balls import project, quantise, random_start
from redcloak.rng import generators

SHAPE = (2, 3, 8, 8)
PHOTOS = arrays.arrays(np.uint8, SHAPE)
MOVED = arrays.arrays(np.float32, SHAPE, elements=st.floats(-1, 2, width=32))


def rms(offset: Tensor) -> Tensor:
    return offset.double().flatten(1).pow(2).mean(1).sqrt()


@settings(max_examples=60)
@given(PHOTOS, MOVED, st.floats(0.5, 64))
def test_an_l2_ball_holds_after_projection_and_on_the_lattice(clean, images, budget):
    origin, ball = torch.from_numpy(clean).float() / 255, Budget.of_255(budget, "l2")
    inside = project(torch.from_numpy(images), origin, ball)
    assert (rms(inside - origin) <= budget / 255 + 1e-7).all()
    saved = quantise(inside, origin, ball)
    levels = (saved * 255).round()
    assert torch.allclose(saved * 255, levels, atol=1e-3)
    assert (rms(levels - torch.from_numpy(clean).float()) <= budget * (1 + 1e-6)).all()


def test_the_l2_lattice_point_is_as_near_as_rounding_where_rounding_is_inside():
    origin = torch.full(SHAPE, 0.5)
    images = origin + 0.01 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    wide = Budget.of_255(20, "l2")
    clean = (origin * 255).round() / 255
    assert torch.equal(quantise(images, clean, wide), (images * 255).round() / 255)


def test_a_tight_l2_ball_is_nearly_filled():
    clean = torch.full(SHAPE, 128 / 255)
    ball = Budget.of_255(2, "l2")
    far = clean + 0.2 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    size = rms((quantise(project(far, clean, ball), clean, ball) * 255).round() - 128)
    assert ((size > 1.9) & (size <= 2 + 1e-6)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_random_start_is_inside_and_each_photo_s_own(norm):
    clean, ball = torch.full((3, 3, 8, 8), 0.5), Budget(0.05, norm)
    start = random_start(clean, ball, generators(0, "s", 3))
    size = (start - clean).abs().flatten(1).amax(1) if norm == "linf" else rms(start - clean)
    assert (size <= 0.05 + 1e-6).all()
    assert (size > 0).all()
    assert torch.equal(random_start(clean[1:2], ball, generators(0, "s", 3)[1:2]), start[1:2])


def test_a_budget_says_its_norm():
    assert str(Budget.of_255(11)) == "11/255"
    assert str(Budget.of_255(2, "l2")) == "2/255 (L2)"
