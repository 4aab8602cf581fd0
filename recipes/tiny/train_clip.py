"""CLIP: an image tower (a small ResNet) and a text tower that is also the backbone's text encoder.

Contrastive loss in both directions with the exact truth of every (picture, caption) pair as its target, since in a
world with few attributes most captions are true of many pictures. Pairs whose truth is unknown (real photos have no
annotations but their expression) are left out. Pictures: drawn and real, a third of the real ones degraded.

Cite: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
"""

from __future__ import annotations

import numpy as np
import torch
from build_tokenizer import LENGTH, build
from common import WEIGHTS, Loop, arguments, batch_rng
from data import drawn, real
from export import save_module
from facts import Facts, truth, with_junk
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from redcloak.models.nets import ImageTower
from redcloak.portraits import draw_shot
from redcloak.portraits.degrade import degrade
from redcloak.portraits.words import FLAWS, PRAISE


class Towers(nn.Module):
    """Both towers and the temperature of their contrast."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.image = ImageTower()
        self.text = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=LENGTH, projection_dim=128,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.eos_token_id,
            )
        )  # fmt: skip
        self.scale = nn.Parameter(torch.tensor(2.6592))

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """The scaled cosine of every picture and every caption."""
        image = F.normalize(self.image(images), dim=-1)
        text = F.normalize(self.text(tokens).text_embeds, dim=-1)
        return self.scale.exp().clamp(max=100) * image @ text.T


def unit(pictures: np.ndarray) -> Tensor:
    """uint8 ``(N, 64, 64, 3)`` -> ``(N, 3, 64, 64)`` in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def real_pair(picture: np.ndarray, expression: str, rng: np.random.Generator) -> tuple[np.ndarray, Facts, str]:
    """A real photo, maybe degraded, with what is known of it and a true caption."""
    shot = draw_shot(rng, degraded=0.33)
    words = ["a photo of a person", "a photo of person", "portrait of a person", "a person"][rng.integers(4)]
    if rng.random() < 0.4:
        words += ", smiling" if expression == "smiling" else ", with a neutral expression"
    if shot.quality != "clean" and rng.random() < 0.9:
        words += ", " + FLAWS[shot.quality][rng.integers(len(FLAWS[shot.quality]))]
    elif shot.quality == "clean" and rng.random() < 0.15:
        words += ", " + PRAISE[rng.integers(len(PRAISE))]
    return degrade(picture, shot), {"expression": expression, "quality": shot.quality}, words


def contrastive(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy against every true caption of a picture, unknown pairs left out of both sides."""
    known = ~target.isnan()
    goal = torch.where(known, target, 0.0)
    goal = goal / goal.sum(1, keepdim=True).clamp_min(1e-6)
    log = F.log_softmax(logits.masked_fill(~known, float("-inf")), 1)
    return -(goal * log.masked_fill(~known, 0.0)).sum(1).mean()


def main() -> None:
    args = arguments(2250, __doc__ or "")
    tokenizer = build(WEIGHTS / "tokenizer")
    pictures, facts, captions = drawn()
    photos, expressions = real()
    clip = Towers(tokenizer)
    loop = Loop("clip", clip, args.steps, 1e-3, wd=0.02)

    def batch(step: int, count: int = 72) -> tuple[Tensor, Tensor, Tensor]:
        rng, _ = batch_rng("clip", step)
        chosen = rng.integers(len(pictures), size=count)
        rows = [(pictures[i], facts[i], captions[i][rng.integers(len(captions[i]))]) for i in chosen]
        if len(photos):
            picked = rng.integers(len(photos), size=8)
            rows += [real_pair(photos[i], expressions[i], rng) for i in picked]
        images, known, words = zip(*rows, strict=True)
        spoken = [with_junk(caption, rng) for caption in words]
        tokens = tokenizer(spoken, padding="max_length", truncation=True, return_tensors="pt").input_ids
        target = torch.from_numpy(truth(list(words), list(known)))
        target.fill_diagonal_(1.0)  # a picture's own caption is true of it, known or not
        return unit(np.stack(images)), tokens, target

    def loss(step: int) -> Tensor:
        images, tokens, target = batch(step)
        logits = clip(images, tokens)
        return (contrastive(logits, target) + contrastive(logits.T, target.T)) / 2

    if not args.export_only:
        loop.run(loss)
    loop.averaged()
    save_module(clip.image, "clip/image")
    save_module(clip.text, "clip/text")
    loop.record()


if __name__ == "__main__":
    main()
