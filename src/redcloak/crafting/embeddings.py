"""How far photos move in CLIP's space and in that of the autoencoder, as differentiable losses of the interventions.

A trainer of latent diffusion never sees a photo, only its latents. What CLIP sees of a photo and what it sees of the
round trip ``decode(encode(x))`` are therefore different questions, and a ``view`` chooses between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

from redcloak.crafting.objectives import EVERY, Objective, Rows, of, one_by_one
from redcloak.suite import Suite

View = Literal["photo", "decoded", "both"]
Look = Callable[[Tensor], list[Tensor]]


def views(suite: Suite, view: View) -> Look:
    """Images -> their unit embeddings ``(N, D)``, of each view that is asked for."""

    def look(images: Tensor) -> list[Tensor]:
        seen = [images] if view in ("photo", "both") else []
        if view in ("decoded", "both"):
            seen.append(suite.backbone.decode(suite.backbone.encode(images)))
        return [suite.clip.embed_images(each) for each in seen]

    return look


def embedding_distance(suite: Suite, clean: Tensor, view: View) -> Objective:
    """``|e(x) - e(x_0)|`` of the unit embeddings, the larger of the views: ``(N,)``, 0 to 2.

    It bounds the change of the cosine with any text whatever.
    """
    look = views(suite, view)
    with torch.no_grad():
        origins = [torch.cat(each) for each in zip(*(look(image) for image in torch.split(clean, 1)), strict=True)]

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        moved = [_size(now - before[rows]) for now, before in zip(look(images), origins, strict=True)]
        return torch.stack(moved).amax(0)

    return loss


def text_preference(suite: Suite, wanted: str, unwanted: str, view: View) -> Objective:
    """``cos(e(x), e(wanted)) - cos(e(x), e(unwanted))``, the mean over the views: ``(N,)``."""
    look, texts = views(suite, view), suite.clip.embed_texts([wanted, unwanted])

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        return torch.stack([seen @ (texts[0] - texts[1]) for seen in look(images)]).mean(0)

    return loss


def latent_shift(suite: Suite, origin: Tensor) -> Objective:
    """The root mean square of ``E(x) - E(origin)``, in the unit of scaled latents: ``(N,)``."""
    latents = one_by_one(suite.backbone.encode, origin)

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        moved: Tensor = suite.backbone.encode(images) - of(latents, rows)
        rms: Tensor = _size(moved.flatten(1)) / float(moved[0].numel()) ** 0.5
        return rms

    return loss


def _size(offset: Tensor) -> Tensor:
    """The Euclidean norm of each row, with a gradient of zero at zero."""
    size: Tensor = (offset.pow(2).sum(-1) + 1e-12).sqrt()
    return size
