"""CLIP: an image tower (ViT, 8x8 patches) and a text tower that is also the backbone's text encoder.

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
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from redcloak.portraits import draw_shot
from redcloak.portraits.degrade import degrade
from redcloak.portraits.words import FLAWS, PRAISE

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def model(tokenizer: CLIPTokenizer) -> CLIPModel:
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=LENGTH, projection_dim=128,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=96, intermediate_size=288, num_hidden_layers=4, num_attention_heads=3, image_size=64,
        patch_size=8, projection_dim=128,
    )  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128))


def normalise(pictures: np.ndarray) -> Tensor:
    """uint8 ``(N, 64, 64, 3)`` -> CLIP's normalised ``(N, 3, 64, 64)``."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


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
    args = arguments(3000, __doc__ or "")
    tokenizer = build(WEIGHTS / "tokenizer")
    pictures, facts, captions = drawn()
    photos, expressions = real()
    clip = model(tokenizer)
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
        return normalise(np.stack(images)), tokens, target

    def loss(step: int) -> Tensor:
        images, tokens, target = batch(step)
        image = F.normalize(clip.get_image_features(pixel_values=images).pooler_output, dim=-1)
        text = F.normalize(clip.get_text_features(input_ids=tokens).pooler_output, dim=-1)
        logits = clip.logit_scale.exp().clamp(max=100) * image @ text.T
        return (contrastive(logits, target) + contrastive(logits.T, target.T)) / 2

    if not args.export_only:
        loop.run(loss)
    save_module(loop.averaged(), "clip")
    loop.record()


if __name__ == "__main__":
    main()
