"""Two-dimensional maps of embeddings: PCA, truncated SVD, exact t-SNE, and UMAP where it is installed.

A map is a picture, not a measurement. PCA and SVD are linear: what is far apart in them is far apart. t-SNE and UMAP
keep neighbourhoods; distances between their clouds, and the sizes of clouds, mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from math import log

import numpy as np

from redcloak.errors import UserError
from redcloak.stats import Floats

PERPLEXITY = 30.0
LARGEST = 1000  # points: exact t-SNE holds all pairs
EXAGGERATION, EXAGGERATED = 12.0, 250  # how strongly clusters attract at first, and for how many iterations
TINY = 1e-12


def pca(points: Floats) -> Floats:
    """The two directions of the largest variance: ``(N, D)`` -> ``(N, 2)``. Nothing is random.

    Cite: Pearson, Philosophical Magazine 2, 1901.
    """
    return svd(points - points.mean(0))


def svd(points: Floats) -> Floats:
    """The two leading singular directions, nothing subtracted: ``(N, D)`` -> ``(N, 2)``. Nothing is random.

    A sign is chosen so that the largest coordinate of each axis is positive.

    Cite: Eckart & Young, Psychometrika 1, 1936 (truncated SVD, one of the projections of arXiv 2406.18944).
    """
    left, values, _ = np.linalg.svd(points, full_matrices=False)
    found = np.zeros((len(points), 2))
    found[:, : min(2, left.shape[1])] = (left * values)[:, :2]
    largest = found[np.abs(found).argmax(0), (0, 1)]
    return np.asarray(found * np.where(largest < 0, -1.0, 1.0))


def tsne(points: Floats, *, perplexity: float = PERPLEXITY, iterations: int = 750) -> Floats:
    """t-SNE with all pairs: ``(N, D)`` -> ``(N, 2)``, for some hundreds of points.

    Gradient descent on ``KL(P || Q)`` with momentum and per-coordinate gains, clusters exaggerated twelve times in the
    first 250 iterations, and a rate that grows with the points. It starts from the PCA, so that nothing is random.
    ``perplexity`` is cut to a third of the other points.

    Raises:
        UserError: fewer than 5 points, or more than 1000.

    Cite: van der Maaten & Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008; the start from PCA: Kobak & Berens,
    "The art of using t-SNE for single-cell transcriptomics", Nature Communications 10, 2019; the rate: Belkina et al.,
    "Automated optimized parameters for T-distributed stochastic neighbor embedding", Nature Communications 10, 2019.
    """
    count = len(points)
    if not 5 <= count <= LARGEST:
        raise UserError(f"t-SNE: {count} points; it needs at least 5 and at most {LARGEST}.")
    wanted = affinities(points, min(perplexity, (count - 1) / 3))
    start = pca(points)
    place = 1e-4 * start / max(float(start[:, 0].std()), TINY)
    rate = count / EXAGGERATION  # more makes small sets overshoot
    step, gains = np.zeros_like(place), np.ones_like(place)
    for iteration in range(iterations):
        early = iteration < EXAGGERATED
        slope = gradient(EXAGGERATION * wanted if early else wanted, place)
        gains = np.maximum(np.where(np.sign(slope) == np.sign(step), 0.8 * gains, gains + 0.2), 0.01)
        step = (0.5 if early else 0.8) * step - rate * gains * slope
        place = place + step
    return np.asarray(place - place.mean(0))


def affinities(points: Floats, perplexity: float) -> Floats:
    """Symmetric joint probabilities ``(N, N)`` that sum to 1: Gaussians whose width gives every point ``perplexity``.

    The width of each row is found by bisection on its entropy, ``H = log perplexity``.
    """
    squares = _squares(points)
    rows = np.stack([_row(np.delete(row, index), log(perplexity)) for index, row in enumerate(squares)])
    count = len(points)
    full = np.zeros((count, count))
    full[~np.eye(count, dtype=bool)] = rows.ravel()
    return np.asarray(np.maximum((full + full.T) / (2 * count), TINY))


def gradient(wanted: Floats, place: Floats) -> Floats:
    """The gradient of ``KL(P || Q)`` in the map: ``4 sum_j (p_ij - q_ij) (y_i - y_j) / (1 + |y_i - y_j|^2)``."""
    kernel = 1 / (1 + _squares(place))
    np.fill_diagonal(kernel, 0)
    pull = (wanted - np.maximum(kernel / kernel.sum(), TINY)) * kernel
    np.fill_diagonal(pull, 0)
    return np.asarray(4 * (pull.sum(1)[:, None] * place - pull @ place))


def umap(points: Floats, *, neighbours: int = 15, seed: int = 0) -> Floats:
    """UMAP by umap-learn: ``(N, D)`` -> ``(N, 2)``. Random: its start and its edges, from ``seed``.

    Raises:
        UserError: umap-learn is not installed, or there are fewer than 5 points.

    Cite: McInnes et al., "UMAP: Uniform Manifold Approximation and Projection", arXiv 1802.03426. License: BSD-3.
    """
    if find_spec("umap") is None:
        raise UserError("UMAP: umap-learn is not installed; pip install 'redcloak[umap]'.")
    if len(points) < 5:
        raise UserError(f"UMAP: {len(points)} points; it needs at least 5.")
    from umap import UMAP

    reducer = UMAP(n_neighbors=min(neighbours, len(points) - 1), random_state=seed, n_jobs=1)
    return np.asarray(reducer.fit_transform(points), dtype=np.float64)


PROJECTIONS: dict[str, Callable[[Floats], Floats]] = {"pca": pca, "svd": svd, "tsne": tsne, "umap": umap}


def _squares(points: Floats) -> Floats:
    """Squared distances of all pairs, ``(N, N)``."""
    norms = np.square(points).sum(1)
    return np.asarray(np.maximum(norms[:, None] + norms - 2 * points @ points.T, 0))


def _row(squares: Floats, entropy: float) -> Floats:
    """The Gaussian affinities of one point to the others, at the width whose entropy is ``entropy``."""
    shifted = squares - squares.min()
    low, high, beta = 0.0, np.inf, 1 / max(float(shifted.mean()), TINY)
    for _ in range(64):
        weights = np.exp(-beta * shifted)
        total = weights.sum()
        found = np.log(total) + beta * (weights @ shifted) / total
        if found > entropy:
            low, beta = beta, beta * 2 if high == np.inf else (beta + high) / 2
        else:
            high, beta = beta, (low + beta) / 2
    return np.asarray(weights / total)
