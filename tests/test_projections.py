from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from redcloak.diagnose.projections import PROJECTIONS, affinities, gradient, pca, svd, tsne, umap
from redcloak.errors import UserError


@pytest.fixture(scope="module")
def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Three clouds of 20 points in 16 dimensions, far apart."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 4, (3, 16))
    labels = np.repeat(np.arange(3), 20)
    return centres[labels] + rng.normal(0, 1, (60, 16)), labels


def nearest(places: np.ndarray) -> np.ndarray:
    apart = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag(np.full(len(places), np.inf))
    return apart.argmin(1)


def test_pca_is_the_eigenvectors_of_the_covariance(clusters):
    points, _ = clusters
    values, vectors = np.linalg.eigh(np.cov(points.T))
    found = pca(points)
    expected = (points - points.mean(0)) @ vectors[:, [-1, -2]]
    assert np.allclose(np.abs(found), np.abs(expected))
    assert found.var(0, ddof=1) == pytest.approx(values[[-1, -2]])
    assert (found.max(0) >= -found.min(0)).all()


def test_svd_is_the_best_plane_through_the_origin(clusters):
    points, _ = clusters
    left, values, right = np.linalg.svd(points)
    best = left[:, :2] * values[:2] @ right[:2]
    found = svd(points)
    plane, *_ = np.linalg.lstsq(found, points, rcond=None)
    assert np.allclose(found @ plane, best)
    assert not np.allclose(found, pca(points))


def test_every_point_has_the_perplexity_asked_for():
    from redcloak.diagnose.projections import _row

    rng = np.random.default_rng(1)
    for perplexity in (2.0, 10.0, 25.0):
        row = _row(np.square(rng.normal(0, 3, 40)), np.log(perplexity))
        assert np.exp(-(row * np.log(np.maximum(row, 1e-300))).sum()) == pytest.approx(perplexity, rel=1e-6)


def test_affinities_are_a_symmetric_distribution(clusters):
    joint = affinities(clusters[0], 10)
    assert joint.sum() == pytest.approx(1, abs=1e-6)
    assert np.array_equal(joint, joint.T)
    within = clusters[1][:, None] == clusters[1]
    assert joint[within].sum() > 0.99


def test_the_gradient_is_that_of_the_divergence(clusters):
    wanted = affinities(clusters[0], 10)
    place = torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    kernel = 1 / (1 + (place[:, None] - place).pow(2).sum(-1))
    kernel = kernel * (1 - torch.eye(60))
    p, q = torch.tensor(wanted), kernel / kernel.sum()
    off = ~torch.eye(60, dtype=torch.bool)
    (p[off] * (p[off] / q[off]).log()).sum().backward()
    assert np.allclose(gradient(wanted, place.detach().numpy()), place.grad.numpy(), atol=1e-9)


def test_tsne_keeps_clusters_together_and_is_the_same_every_time(clusters):
    points, labels = clusters
    found = tsne(points, perplexity=10)
    assert (labels[nearest(found)] == labels).all()
    spread = max(found[labels == one].std(0).max() for one in range(3))
    centres = np.stack([found[labels == one].mean(0) for one in range(3)])
    assert np.linalg.norm(centres[[0, 1, 2]] - centres[[1, 2, 0]], axis=1).min() > 3 * spread
    assert np.array_equal(found, tsne(points, perplexity=10))


@pytest.mark.parametrize("count", [8, 20, 60])
@pytest.mark.parametrize("seed", range(3))
def test_tsne_descends(count: int, seed: int):
    """Of few points, too: there a rate that suits many overshoots."""
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 4, (3, 16))[np.arange(count) % 3] + rng.normal(0, 1, (count, 16))
    wanted, off = affinities(points, min(10, (count - 1) / 3)), ~np.eye(count, dtype=bool)

    def divergence(place: np.ndarray) -> float:
        kernel = 1 / (1 + np.square(place[:, None] - place).sum(-1))
        np.fill_diagonal(kernel, 0)
        return float((wanted[off] * np.log(wanted[off] / (kernel / kernel.sum())[off])).sum())

    start, early, late = (divergence(tsne(points, perplexity=10, iterations=turns)) for turns in (0, 300, 750))
    assert start > early > late
    assert late < 0.5 * divergence(pca(points))


def test_few_points(clusters):
    assert tsne(clusters[0][:5]).shape == (5, 2)
    assert np.isfinite(tsne(np.zeros((6, 3)))).all()
    assert pca(clusters[0][:1]).tolist() == [[0, 0]]
    assert svd(np.ones((3, 1)))[:, 1].tolist() == [0, 0, 0]
    with pytest.raises(UserError, match="t-SNE: 4 points; it needs at least 5"):
        tsne(clusters[0][:4])
    with pytest.raises(UserError, match="at most 1000"):
        tsne(np.zeros((1001, 2)))


def test_umap_is_an_extra(clusters, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("redcloak.diagnose.projections.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'redcloak\[umap\]'"):
        umap(clusters[0])


def test_umap_is_asked_for_what_fits(clusters, monkeypatch: pytest.MonkeyPatch):
    asked = {}

    class Fake:
        def __init__(self, **settings: object) -> None:
            asked.update(settings)

        def fit_transform(self, points: np.ndarray) -> np.ndarray:
            return points[:, :2].astype(np.float32)

    module = ModuleType("umap")
    module.UMAP = Fake
    monkeypatch.setitem(sys.modules, "umap", module)
    monkeypatch.setattr("redcloak.diagnose.projections.find_spec", lambda name: module)
    found = PROJECTIONS["umap"](clusters[0][:8])
    assert found.shape == (8, 2)
    assert asked == {"n_neighbors": 7, "random_state": 0, "n_jobs": 1}
    with pytest.raises(UserError, match="UMAP: 4 points"):
        umap(clusters[0][:4])
