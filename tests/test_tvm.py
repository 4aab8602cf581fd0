from __future__ import annotations

from dataclasses import replace

import cvxpy
import numpy as np
import pytest
import torch
from torch import Tensor

from redcloak import variation
from redcloak.api import Context, Subject
from redcloak.purify import tvm
from redcloak.purify.upscale import resize
from redcloak.registry import load
from redcloak.rng import generators, rand
from redcloak.variation import minimise, objective

Arrays = tuple[np.ndarray, np.ndarray]


def purify(images: Tensor, context: Context, seed: int = 0, **settings) -> Tensor:
    return tvm.tvm(images, tvm.Config(**settings), context, generators(seed, "p", len(images)))


def variation_of(planes: list) -> cvxpy.Expression:
    """The sum of the norms of the differences of rows and of columns, as the papers write it."""
    terms = []
    for plane in planes:
        terms.append(cvxpy.sum(cvxpy.norm(plane[1:, :] - plane[:-1, :], 2, axis=1)))
        terms.append(cvxpy.sum(cvxpy.norm(plane[:, 1:] - plane[:, :-1], 2, axis=0)))
    return cvxpy.sum(cvxpy.hstack(terms))


def by_cones(image: np.ndarray, kept: np.ndarray, weight: float, largest: bool = False) -> tuple[float, np.ndarray]:
    """One ``(C, H, W)`` picture by an interior-point solver; ``largest``: with cvxpy's norm 2 of a matrix."""
    planes = [cvxpy.Variable(plane.shape) for plane in image]
    gaps = [cvxpy.multiply(k, z - x) for k, z, x in zip(kept, planes, image, strict=True)]
    vectors = [cvxpy.vec(gap, order="C") for gap in gaps]
    misfit = sum(cvxpy.norm(gap, 2) for gap in gaps) if largest else cvxpy.norm(cvxpy.hstack(vectors), 2)
    cost = misfit + weight * variation_of(planes)
    problem = cvxpy.Problem(cvxpy.Minimize(cost))
    problem.solve(solver=cvxpy.CLARABEL)
    return float(problem.value), np.stack([plane.value for plane in planes])


@pytest.fixture
def crop(photos: Tensor) -> Tensor:
    return photos[:2, :, 20:34, 24:42].contiguous()


@pytest.mark.parametrize(("drop", "weight"), [(0.02, 0.01), (0.5, 0.03), (0.3, 0.12), (0.0, 0.3), (0.2, 2.0)])
def test_the_minimum_is_a_conic_solver_s(drop: float, weight: float, crop: Tensor):
    kept = rand(crop, generators(0, "m", len(crop))) >= drop
    ours = minimise(crop, kept, weight, tolerance=1e-6, steps=5000)
    values = objective(ours.double(), crop.double(), kept.double(), weight)
    for image, mask, value, picture in zip(crop.double().numpy(), kept.numpy(), values, ours.numpy(), strict=True):
        least, theirs = by_cones(image, mask.astype(float), weight)
        assert float(value) == pytest.approx(least, rel=2e-4)
        assert np.abs(picture - theirs).max() < 0.02
        assert np.sqrt(np.square(picture - theirs).mean()) < 0.004


def test_the_default_tolerance_is_near_the_minimum(photos: Tensor):
    kept = rand(photos, generators(0, "m", len(photos))) >= 0.5
    usual, exact = (minimise(photos, kept, 0.05, tolerance, 5000) for tolerance in (1e-4, 1e-5))
    assert (usual - exact).abs().max() * 255 < 0.5
    mine, best = (objective(picture, photos, kept.float(), 0.05) for picture in (usual, exact))
    assert bool((mine <= best * (1 + 3e-4)).all())


def test_the_objective_by_hand():
    picture = torch.tensor([[[[1.0, 1.0], [4.0, 5.0]]]])  # rows differ by (3, 4); columns by (0, 1)
    target, kept = picture + torch.tensor([[[[3.0, 9.0], [0.0, 4.0]]]]), torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
    assert float(objective(picture, target, kept, 0.5)) == pytest.approx(5 + 0.5 * (5 + 1))


def test_a_flat_picture_stays_and_its_holes_are_filled():
    flat = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 16, 24).contiguous()
    kept = rand(flat, generators(0, "m", 1)) >= 0.5
    holed = torch.where(kept, flat, 1.0)
    assert torch.allclose(minimise(holed, kept, 0.03, 1e-6), flat, atol=1e-3), "what was dropped is not looked at"
    assert not minimise(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8), 0.1).any()


def test_a_picture_stops_by_itself(photos: Tensor, monkeypatch: pytest.MonkeyPatch):
    """A flat companion is done at once and a hard one much later: neither changes another's result."""
    flat = torch.full_like(photos[:1], 0.5)
    kept = rand(photos[:1], generators(0, "m", 1)) >= 0.3
    counts = []
    for batch in ([flat], [photos[:1]], [flat, photos[:1]]):
        calls = []
        projected = variation._projected
        with monkeypatch.context() as patch:
            patch.setattr(variation, "_projected", lambda *a, p=projected, c=calls: c.append(1) or p(*a))
            result = minimise(torch.cat(batch), torch.cat([kept] * len(batch)), 0.05)
        counts.append(len(calls))
    assert counts[0] < counts[1] == counts[2] < 200
    assert torch.allclose(result[1:], minimise(photos[:1], kept, 0.05), atol=1e-5)
    assert torch.allclose(result[:1], flat, atol=1e-5)


@pytest.mark.parametrize("shape", ["photos", "wide"])
def test_whole_is_the_minimiser_of_the_drawn_mask(shape: str, context: Context, request: pytest.FixtureRequest):
    images = request.getfixturevalue(shape)
    kept = rand(images, generators(0, "p", len(images))) >= 0.5
    assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(purify(images, context), minimise(images, kept, 0.03).clamp(0, 1))
    kept = rand(images, generators(0, "p", len(images))) >= 0.1
    assert torch.equal(purify(images, context, drop=0.1, weight=0.2), minimise(images, kept, 0.2).clamp(0, 1))


def test_dropped_values_leave_no_trace(photos: Tensor, context: Context):
    kept = rand(photos, generators(0, "p", len(photos))) >= 0.5
    other = torch.where(kept, photos, 1 - photos)
    assert torch.equal(purify(photos, context), purify(other, context))


def test_the_paper_s_small_weight_keeps_what_was_not_dropped(photos: Tensor, context: Context):
    kept = rand(photos, generators(0, "p", len(photos))) >= 0.02
    result = purify(photos, context, drop=0.02, weight=0.01)
    assert (result - photos)[kept].abs().max() < 1e-6
    assert (purify(photos, context, drop=0.02, weight=0.1) - photos)[kept].abs().mean() * 255 > 1


@pytest.mark.parametrize(("drop", "weight"), [(0.1, 0.12), (0.3, 0.2)])
def test_released_is_what_cvxpy_makes_of_the_released_code(drop: float, weight: float, crop: Tensor, context: Context):
    """The array ``(H, W * 3)``: differences between colours, rows over all channels, and its largest singular value."""
    crop = crop[:1]
    kept = rand(crop, generators(0, "p", 1)) >= drop
    exact = {"tolerance": 1e-6, "steps": 2000}
    ours = purify(crop, context, drop=drop, weight=weight, variant="released", **exact)
    flat, mask = (a.permute(0, 2, 3, 1).reshape(1, 1, 14, 54).double() for a in (crop, kept))
    values = objective(minimise(flat.float(), mask, weight, **exact, largest=True).double(), flat, mask, weight, True)
    least, theirs = by_cones(flat[0].numpy(), mask[0].numpy(), weight, largest=True)
    assert float(values[0]) == pytest.approx(least, rel=3e-4)
    assert np.abs(ours[0].permute(1, 2, 0).reshape(14, 54).numpy() - theirs[0].clip(0, 1)).max() < 0.01
    assert np.abs(theirs - by_cones(flat[0].numpy(), mask[0].numpy(), weight)[1]).max() > 0.02, "the other norm differs"


def test_the_projection_onto_a_bound_on_the_sum_of_singular_values():
    matrices = torch.randn(2, 3, 5, 9, generator=torch.Generator().manual_seed(0))
    radius = torch.tensor([2.0, 100.0]).view(2, 1, 1, 1)
    ball = variation._flattened(matrices, radius)
    bounds = radius.flatten().repeat_interleave(3)
    for bound, matrix, flat in zip(bounds, *(a.flatten(0, 1) for a in (matrices, ball)), strict=True):
        expected = cvxpy.Variable((5, 9))
        problem = cvxpy.Minimize(cvxpy.sum_squares(expected - matrix.double().numpy()))
        cvxpy.Problem(problem, [cvxpy.normNuc(expected) <= float(bound)]).solve(solver=cvxpy.CLARABEL)
        assert np.abs(expected.value - flat.numpy()).max() < 1e-3


def test_released_moves_what_the_paper_keeps(photos: Tensor, context: Context):
    kept = rand(photos, generators(0, "p", len(photos))) >= 0.02
    moved = {
        variant: float((purify(photos, context, drop=0.02, weight=0.01, variant=variant) - photos)[kept].abs().mean())
        for variant in ("paper", "released")
    }
    assert moved["paper"] < 1e-6
    assert moved["released"] > 1e-5


def test_released_greys_where_the_paper_keeps_the_colour(context: Context):
    red = torch.tensor([0.8, 0.2, 0.2]).view(1, 3, 1, 1).expand(1, 3, 32, 32).contiguous()
    spread = {v: purify(red, context, variant=v, drop=0.02, weight=0.1) for v in ("paper", "released")}
    chroma = {v: float((s[:, 0] - s[:, 1]).mean()) for v, s in spread.items()}
    assert chroma["paper"] == pytest.approx(0.6, abs=1e-3)
    assert chroma["released"] < 0.5


def test_small_is_enlarged_by_the_suite(photos: Tensor, context: Context):
    seen: list[tuple] = []

    class Spy:
        def upscaler(self, images, prompt, level, streams):
            seen.append((tuple(images.shape[-2:]), prompt, level))
            return resize(images, 4 * images.shape[-2], 4 * images.shape[-1])

    dog = replace(context, suite=Spy(), subject=Subject("dog"))
    sizes = {4: [(16, 16)], 8: [(8, 8), (16, 16)], 2: [(32, 32)], 3: [(21, 21)], 32: [(2, 2), (8, 8), (16, 16)]}
    for shrink, passes in sizes.items():
        seen.clear()
        result = purify(photos, dog, mode="small", shrink=shrink, noise_level=9)
        assert seen == [(size, "a photo of a dog", 9) for size in passes], shrink
        assert result.shape == photos.shape
    small = resize(photos, 16, 16)
    kept = rand(small, generators(0, "p", 3)) >= 0.02
    expected = resize(minimise(small, kept, 0.01).clamp(0, 1), 64, 64)
    assert torch.equal(purify(photos, dog, mode="small", shrink=4), expected)


@pytest.mark.parametrize("mode", ["whole", "small"])
def test_the_upscaler_is_needed_where_it_is_used(mode: str, wide: Tensor, context: Context):
    entry = load("purify", "tvm")
    assert entry.needs(entry.configure(mode=mode)) == (("upscaler",) if mode == "small" else ())
    result = purify(wide, context, mode=mode, steps=5)
    assert result.shape == wide.shape
    assert 0 <= result.min() <= result.max() <= 1
