"""New words for the noise of photos: which photo's noise is called what, while a model trains and afterwards.

A fixed noise token is one name for what differs from photo to photo. Here the name may be K words whose embeddings
train along: the same for all photos, others for each, or one for each kind of noise. Kinds are clusters of residuals:

    r = x - G_1.1 * x                        the photo's fine detail, where a protective perturbation lives
    f = log mean |FFT r|^2 in B bands        of each channel; does not change where a pattern is shifted
    clusters of f by k-means (k-means++ from a seed)

Sampling denies K words whatever the way: those of all photos, the means of each photo's, or those of all clusters.

Cite: Liu et al., arXiv 2406.18944, section 4.3 (one fixed token, in words); Gal et al., ICLR 2023 (a word that trains);
Arthur & Vassilvitskii, "k-means++", SODA 2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from redcloak.errors import UserError
from redcloak.prompts import Decoupling
from redcloak.rng import derive
from redcloak.training.vocabulary import add_words

if TYPE_CHECKING:
    from redcloak.backbone import Backbone

SIGMA = 1.1  # pixels: the Gaussian that leaves a 5-pixel kernel, as in the paper's blur
BANDS = 6
TRIES = 20


def teach(backbone: Backbone, decoupling: Decoupling, images: Tensor, generator: Generator) -> tuple[str, ...]:
    """Add the new words to a backbone on loan: what the noise of each photo ``(N, 3, H, W)`` is called, ``(N,)``.

    Every word begins as the mean embedding of ``decoupling.noise_token``. Random: the first centres of clusters.

    Raises:
        UserError: more clusters than photos, or than kinds of photos.
    """
    if decoupling.tokens == "text":
        return (decoupling.noise_token,) * len(images)
    if decoupling.tokens == "per_image":
        names = [_own(decoupling, photo) for photo in range(1, len(images) + 1)]
    elif decoupling.tokens == "shared":
        names = [decoupling.words] * len(images)
    else:
        names = [(decoupling.words[kind],) for kind in kinds(images, decoupling.count, generator)]
    words = decoupling.words if decoupling.tokens != "per_image" else [name for own in names for name in own]
    add_words(backbone, dict.fromkeys(words, decoupling.noise_token))
    return tuple(" ".join(own) for own in names)


def settle(backbone: Backbone, decoupling: Decoupling, photos: int) -> None:
    """After training, where every photo had words of its own: add their means, which sampling denies."""
    if decoupling.tokens != "per_image":
        return
    own = [_own(decoupling, photo) for photo in range(1, photos + 1)]
    add_words(backbone, {word: " ".join(column) for word, *column in zip(decoupling.words, *own, strict=True)})


def _own(decoupling: Decoupling, photo: int) -> tuple[str, ...]:
    return tuple(word.replace("noise-", f"noise-{photo}-") for word in decoupling.words)


def spectra(images: Tensor, bands: int = BANDS) -> Tensor:
    """Log power of each photo's residual in rings of equal width, ``(N, 3 * bands)``; corners count to the last."""
    from redcloak.purify.gaussian import blur

    residuals = images - blur(images, SIGMA)
    power = torch.fft.fft2(residuals, norm="ortho").abs().square()
    high, wide = (torch.fft.fftfreq(side, device=images.device) for side in images.shape[-2:])
    ring = ((high[:, None].square() + wide.square()).sqrt() * 2 * bands).long().clamp(max=bands - 1)
    means = [power[..., ring == index].mean(-1) for index in range(bands)]
    return (torch.stack(means, -1) + 1e-12).log().flatten(1)


def kinds(images: Tensor, count: int, generator: Generator) -> list[int]:
    """The cluster of each photo, from 0 to ``count - 1``, none of them empty, numbered as they first appear.

    Raises:
        UserError: there are fewer photos, or kinds of photos, than clusters.
    """
    if count > len(images):
        raise UserError(f"decoupling.count = {count}: more clusters than the {len(images)} photos; take fewer.")
    features = spectra(images).double().cpu().numpy()
    seed = derive(generator.initial_seed(), "kinds")  # draws nothing: training goes on as it would without clusters
    labels = _kmeans(features, count, np.random.default_rng(seed))
    order = list(dict.fromkeys(labels))
    return [order.index(label) for label in labels]


def _kmeans(features: NDArray[np.float64], count: int, rng: np.random.Generator) -> Sequence[int]:
    from scipy.cluster.vq import ClusterError, kmeans2

    different = len(np.unique(features.round(6), axis=0))
    for _ in range(TRIES if different >= count else 0):
        try:
            labels: list[int] = kmeans2(features, count, minit="++", rng=rng, missing="raise")[1].tolist()
            return labels
        except ClusterError:  # a centre lost its photos: other first ones
            continue
    raise UserError(f"decoupling.count = {count}: the photos' residuals are of fewer kinds; take fewer clusters.")
