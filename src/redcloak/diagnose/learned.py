"""What a personalized model learned: how its pictures of each concept score, and where its words look.

Asked for the identifier alone, a model that was trained on protected photos should draw noise if the noise was tied to
the identifier, and the person if contrastive decoupling untied them (:mod:`redcloak.concepts`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from redcloak import registry
from redcloak.api import Context
from redcloak.backbone import Backbone
from redcloak.crafting.attention import recorded
from redcloak.diagnose.misalignment import Concepts, measure
from redcloak.errors import UserError
from redcloak.generate import Sampling, generate
from redcloak.stats import Estimate, cluster_bootstrap

LARGEST_SIDE = 16  # of an attention map: finer layers look at edges rather than at things
Scorer = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Attention:
    """Of one word: the share of the attention it gets, and that share by place ``(side, side)``."""

    word: str
    share: float
    map: Tensor


def scorer(context: Context) -> Scorer:
    """What drawn pictures are scored by: the share of the class, quality and identity, as far as the suite has them.

    ``context.reference`` holds clean photos of the subject; where no face is found in them there is no identity.
    """
    suite, concepts = context.suite, Concepts.of(context.subject.class_noun)

    def score(images: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if suite.spec.clip:
            found["class_mass"] = measure(images, context.subject.class_prompt, suite.clip, concepts=concepts)[
                "class_mass"
            ]
        if suite.spec.quality:
            found["quality"] = suite.quality(images)
        try:
            entry = registry.load("metrics", "identity")
            faces = entry.function(images, entry.configure(), context)
            found |= {name: faces[name] for name in ("identity_zero", "face_found")}
        except UserError:  # nobody to recognise: a thing, or faces that the detector does not find
            pass
        return found

    return score


def estimates(scores: dict[str, Tensor]) -> dict[str, Estimate]:
    """The mean of each score with its 95% interval over the pictures of one model."""
    return {
        name: cluster_bootstrap(values.double().numpy(), np.zeros(len(values), dtype=np.int64))
        for name, values in scores.items()
    }


def attention(
    backbone: Backbone, prompt: str, words: Sequence[str], count: int, seed: int, sampling: Sampling
) -> list[Attention]:
    """Where each word looks while ``count`` pictures of a prompt are drawn; a word that is not in it is left out.

    The mean over layers of one size, heads, steps and pictures of the cross-attention's probabilities, summed over the
    word's tokens; of the pass under the prompt, not of the one that guidance leads away from. Random: the starting
    noise, from ``seed``.

    Cite: Hertz et al., "Prompt-to-Prompt Image Editing with Cross Attention Control", ICLR 2023; Tang et al., "What the
    DAAM", ACL 2023.
    """
    side = map_side(backbone)
    found = {word: place for word in words if (place := positions(backbone.tokenizer, prompt, word))}
    with recorded(backbone.unet, side) as kept:
        generate(backbone, [prompt], count, seed, sampling)
    if not kept or not found:
        return []
    prompted = [layer if sampling.guidance == 1 else layer.chunk(2)[1] for layer in kept]
    mean = torch.stack([layer.mean(0) for layer in prompted]).mean(0).cpu()  # (side^2, L)
    heats = {word: mean[:, place].sum(-1).reshape(side, side) for word, place in found.items()}
    return [Attention(word, float(heat.mean()), heat) for word, heat in heats.items()]


def positions(tokenizer: object, prompt: str, word: str) -> list[int]:
    """Where the tokens of a word, or of a phrase, stand in the tokens of a prompt; empty where they do not."""
    whole = tokenizer(prompt, truncation=True).input_ids  # type: ignore[operator]
    part = tokenizer(word, add_special_tokens=False).input_ids  # type: ignore[operator]
    for start in range(len(whole) - len(part) + 1):
        if part and whole[start : start + len(part)] == part:
            return list(range(start, start + len(part)))
    return []


def map_side(backbone: Backbone) -> int:
    """The side of the finest cross-attention maps that are no finer than 16 x 16."""
    config = backbone.unet.config
    sides = [
        int(config.sample_size) >> level
        for level, kind in enumerate(config.down_block_types)
        if str(kind).startswith("CrossAttn")
    ]
    fitting = [side for side in sides if side <= LARGEST_SIDE]
    return max(fitting) if fitting else min(sides, default=int(config.sample_size))
