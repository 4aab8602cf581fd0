"""How far photos have moved from their prompt, in the space of a CLIP, before and after the autoencoder.

The claim that is measured: a protective perturbation moves a photo out of the region of its class and into one of
noise, and fine-tuning then ties that noise to the identifier. CLIP sees the photo; the model is trained on what its
autoencoder makes of it. So every measure is taken twice, of the photo and of its round trip ``decode(encode(x))``.

Which CLIP, which concepts, how many of them and at what size: the paper does not say. What stands here is a proposal,
and every number belongs to the CLIP it was taken with.

Cite: Liu et al., arXiv 2406.18944, section 4.1; zero-shot classification of Radford et al., ICML 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redcloak.api import Score
from redcloak.backbone import Backbone
from redcloak.errors import UserError
from redcloak.models.clip import Clip
from redcloak.stats import Estimate, Floats, cluster_bootstrap

Given = Sequence[Tensor | None]  # images, their clean photos, pictures of the class

TEMPERATURE = 100.0  # what CLIP was trained to, and what the authors' scores of this family use
CLASS = ("a photo of {noun}", "a picture of {noun}", "{noun}")
NOISE = ("a photo of noise", "a noisy pattern", "noise")
DECODED = "_decoded"

_TAKEN = {
    "cosine": Score("cosine with the prompt", True, -1, 1, "cosine"),
    "class_mass": Score("share of the class against noise", True, 0, 1, "share"),
    "shift": Score("shift from the clean photo", False, 0, 2, "1 - cosine"),
    "class_distance": Score("distance to the class", False, 0, 10, "deviations", 2),
}
SCORES: dict[str, Score] = {
    **_TAKEN,
    **{
        f"{name}{DECODED}": Score(f"{score.title}, decoded", score.higher_is_better, score.low, score.high, score.unit)
        for name, score in _TAKEN.items()
    },
    "latent_shift": Score("shift of the latents", False, 0, 10, "root mean square"),
}
OF_PHOTOS = tuple(_TAKEN)
OF_DECODED = tuple(name for name in SCORES if name not in _TAKEN)


@dataclass(frozen=True)
class Concepts:
    """What a zero-shot classifier chooses between: texts of the class, and as many of noise.

    The share of the class is the sum over its texts, so two lists of different lengths would favour the longer one.
    """

    subject: tuple[str, ...]
    noise: tuple[str, ...] = NOISE

    @classmethod
    def of(cls, noun: str) -> Concepts:
        """The default texts for a class noun."""
        return cls(tuple(text.format(noun=noun) for text in CLASS))

    def __post_init__(self) -> None:
        if not self.subject or len(self.subject) != len(self.noise):
            raise UserError(
                f"concepts: {len(self.subject)} texts of the class and {len(self.noise)} of noise; "
                "give as many of each, and at least one."
            )


@dataclass(frozen=True)
class Cloud:
    """The pictures of a class in CLIP's space: their centroid ``(D,)``, and the deviation of one from it.

    The deviation is ``sqrt(sum |e_i - centroid|^2 / (n - 1))``, one number for all directions: with fewer pictures than
    dimensions a covariance could not be inverted. NaN for a single picture.
    """

    centroid: Tensor
    deviation: float

    @classmethod
    def of(cls, embeddings: Tensor) -> Cloud:
        """The cloud of unit embeddings ``(N, D)``."""
        centroid = embeddings.mean(0)
        squares = (embeddings - centroid).pow(2).sum()
        return cls(centroid, float(squares / (len(embeddings) - 1)) ** 0.5 if len(embeddings) > 1 else float("nan"))

    def distance(self, embeddings: Tensor) -> Tensor:
        """Distance to the centroid in within-class deviations, ``(N,)``: about 1 for a member of the class."""
        apart: Tensor = torch.linalg.vector_norm(embeddings - self.centroid, dim=-1)
        return apart / self.deviation


@torch.no_grad()
def measure(
    images: Tensor,
    prompt: str,
    clip: Clip,
    backbone: Backbone | None = None,
    *,
    clean: Tensor | None = None,
    members: Tensor | None = None,
    concepts: Concepts | None = None,
) -> dict[str, Tensor]:
    """Measure each image against its prompt: score name (of :data:`SCORES`) -> ``(N,)`` float32 on the CPU.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
        prompt: what every image should show. CLIP never met an identifier: leave it out, as CLIP-T does.
        clip: the CLIP that looks.
        backbone: whose autoencoder the round trip takes (its mean, nothing is drawn); without it there are no
            ``*_decoded`` scores and no ``latent_shift``.
        clean: the clean photo of each image, for ``shift`` and ``latent_shift``; photo is compared with photo and
            round trip with round trip, so that what the autoencoder loses by itself cancels.
        members: pictures ``(M, 3, H, W)`` of the class, for ``class_distance``; NaN where there are fewer than two.
        concepts: what ``class_mass`` is the share of, ``softmax(100 cosine)``; by default a person against noise.

    Nothing is random, and an image's result does not depend on its companions.

    Cite: Liu et al., arXiv 2406.18944, section 4.1 (the claim; the measures are a proposal). License: that of the CLIP.
    """
    if clean is not None and clean.shape != images.shape:
        raise UserError(f"misalignment: {len(images)} images need as many clean ones of their size, got {len(clean)}.")
    concepts = concepts or Concepts.of("person")
    given = (images, clean, members)
    found = _view(given, prompt, clip, concepts)
    if backbone is None:
        return found
    latents = [None if part is None else _each(part, backbone.encode) for part in given]
    decoded = [None if part is None else _each(part, backbone.decode) for part in latents]
    found |= {name + DECODED: values for name, values in _view(decoded, prompt, clip, concepts).items()}
    if latents[0] is not None and latents[1] is not None:
        found["latent_shift"] = (latents[0] - latents[1]).pow(2).mean((1, 2, 3)).sqrt()
    return found


def difference(after: Floats, before: Floats, subjects: Sequence[str] | NDArray[np.str_]) -> Estimate:
    """The mean of ``after - before`` over paired pictures ``(N,)`` with its 95% interval.

    Whole subjects are drawn again; where there is one subject, its pictures are, and the interval speaks of that
    subject alone. With a single picture there is no interval (NaN).
    """
    return cluster_bootstrap(np.asarray(after) - np.asarray(before), np.asarray(subjects))


def embedded(images: Tensor, clip: Clip) -> Tensor:
    """Unit embeddings ``(N, D)`` on the CPU, a few images at a time."""
    return _each(images, clip.embed_images)


def _view(given: Given, prompt: str, clip: Clip, concepts: Concepts) -> dict[str, Tensor]:
    """The measures of one view of the photos: as they are, or after the autoencoder."""
    images, clean, members = (None if part is None else embedded(part, clip) for part in given)
    assert images is not None  # the first of the three is never left out
    texts = clip.embed_texts([prompt, *concepts.subject, *concepts.noise]).cpu()
    shares = (TEMPERATURE * images @ texts[1:].T).softmax(-1)
    found = {"cosine": images @ texts[0], "class_mass": shares[:, : len(concepts.subject)].sum(-1)}
    if clean is not None:
        found["shift"] = (1 - (images * clean).sum(-1)).clamp_min(0)  # rounding
    if members is not None:
        found["class_distance"] = Cloud.of(members).distance(images)
    return found


@torch.no_grad()
def _each(images: Tensor, function: Callable[[Tensor], Tensor], chunk: int = 4) -> Tensor:
    return torch.cat([function(part).float().cpu() for part in torch.split(images, chunk)])
