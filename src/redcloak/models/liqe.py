"""LIQE: a CLIP that was fine-tuned to read the quality of patches off one sentence for scene, distortion and quality.

The weights are a folder in transformers' format, made of the public checkpoint by ``python -m redcloak.convert.liqe``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from redcloak.errors import UserError
from redcloak.models.clip import Clip

QUALITIES = ("bad", "poor", "fair", "good", "perfect")
SCENES = ("animal", "cityscape", "human", "indoor", "landscape", "night", "plant", "still_life", "others")
DISTORTIONS = (
    "jpeg2000 compression", "jpeg compression", "noise", "blur", "color", "contrast", "overexposure", "underexposure",
    "spatial", "quantization", "other",
)  # fmt: skip
SENTENCES = [
    f"a photo of a {scene} with {distortion} artifacts, which is of {quality} quality"
    for quality, scene, distortion in product(QUALITIES, SCENES, DISTORTIONS)
]
STEP, PATCHES = 32, 15


def liqe(folder: Path, device: str = "cpu") -> Callable[[Tensor], Tensor]:
    """Images ``(N, 3, H, W)`` in [0, 1] -> quality from 1 to 5, ``(N,)``.

    Fifteen evenly spaced patches of the side that the CLIP takes (224), of all that lie 32 pixels apart; their logits
    for 495 sentences are averaged before the softmax. A picture of a shorter side is enlarged to it.

    The class ``LIQE`` of the authors' repository divides the size of the batch where it means the number of patches,
    and so looks at the first patch fifteen times. Here they are spread over the picture, as the paper says.

    Raises:
        UserError: the folder does not hold such a model.

    Cite: Zhang et al., "Blind Image Quality Assessment via Vision-Language Correspondence", CVPR 2023.
    License: MIT (the authors' code and checkpoint).
    """
    clip, words, scale = _load(folder, device)

    @torch.no_grad()
    def score(images: Tensor) -> Tensor:
        return torch.cat([_quality(clip, words * scale, image[None].to(clip.device)) for image in images]).cpu()

    return score


def _quality(clip: Clip, words: Tensor, image: Tensor) -> Tensor:
    seen = clip.embed_images(patches(image, clip.side))
    share = (seen @ words.T).mean(0).softmax(0)
    ranks = torch.arange(1.0, 6.0, device=share.device)
    return (share.view(len(QUALITIES), -1).sum(1) @ ranks)[None]


def patches(image: Tensor, side: int) -> Tensor:
    """At most fifteen patches ``(P, 3, side, side)`` of ``(1, 3, H, W)``, evenly spaced in the order of reading."""
    short = min(image.shape[-2:])
    if short < side:
        size = [max(side, round(extent * side / short)) for extent in image.shape[-2:]]
        image = F.interpolate(image, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    every = image.unfold(2, side, STEP).unfold(3, side, STEP).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, side, side)
    return every[:: max(1, len(every) // PATCHES)][:PATCHES]


@lru_cache(maxsize=2)
def _load(folder: Path, device: str) -> tuple[Clip, Tensor, float]:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError):
        kind = None
    if kind != "clip":
        raise UserError(f"weights = {str(folder)!r}: not LIQE's; make it with python -m redcloak.convert.liqe.")
    clip = Clip.load(folder, folder, device)
    return clip, clip.embed_texts(SENTENCES), float(clip.image.model.logit_scale.exp())
