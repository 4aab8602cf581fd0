"""The last turn of the backbone: its text encoder learns to keep every word, and its UNet to read names.

The tower of a small CLIP keeps only what its pictures show: an unknown word such as ``sks`` moved the states of
"a photo of sks person" by 2 where "with bhj noisy pattern" moved them by 630 (squared distance over all positions),
and the UNet had learned that such words mean nothing. Large text encoders keep rare words, and on the web a rare word
before a noun is most often a name. DreamBooth's identifiers need both: without them fine-tuning ties a subject to any
other words of its prompt. So both models go on with the denoising loss; the encoder's states must also tell the word at
each position and, at the end of the text, which words it had; and some of the drawn people have names, each of which
several share. ``sks`` is one of them; nobody who is later tested has a name.

From the UNet of ``train_unet.py`` and the tower of ``train_clip.py``; the CLIP itself stays as it is.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from common import STATE, WEIGHTS, Loop, arguments, batch_rng
from data import SHOTS
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from export import save_module
from torch import Tensor, nn
from torch.nn import functional as F
from train_unet import BATCH, build, denoising, latents, schedule, text_encoder
from transformers import CLIPTextModel, CLIPTokenizer

KEEP = 0.1  # weight of the two losses on words
PEOPLE = 512  # of the 10,000 have names
NAMED = 0.25  # of the pictures are of them
SAID = 0.8  # of their captions say the name
LETTERS = np.random.default_rng(22).integers(97, 123, (63, 3))
NAMES = ("sks", *("".join(map(chr, word)) for word in LETTERS))


class Pair(nn.Module):
    """UNet and text encoder, and the heads that read words from its states (they are not shipped)."""

    def __init__(self, unet: UNet2DConditionModel, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.encoder = unet, encoder
        width, words = encoder.config.hidden_size, encoder.config.vocab_size
        self.here, self.anywhere = nn.Linear(width, words), nn.Linear(width, words)

    def kept(self, tokens: Tensor, states: Tensor) -> Tensor:
        """Cross-entropy of the word at each position, and of the set of words at the first end of text."""
        end = (tokens == self.encoder.config.eos_token_id).int().argmax(1)
        place = torch.arange(tokens.shape[1])[None]
        inside = (place > 0) & (place < end[:, None])
        own = F.cross_entropy(self.here(states[inside]), tokens[inside])
        there = torch.zeros(len(tokens), self.anywhere.out_features)
        there.scatter_(1, torch.where(inside, tokens, tokens[:, :1]), 1.0)  # the start of text stands in every set
        found = self.anywhere(states[torch.arange(len(tokens)), end])
        return own + F.binary_cross_entropy_with_logits(found, there, reduction="none").sum(1).mean()


def main() -> None:
    args = arguments(3000, __doc__ or "")
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    unet = build()
    unet.load_state_dict(torch.load(STATE / "unet.pt", weights_only=True)["average"])
    unet.set_attn_processor(AttnProcessor())
    pair = Pair(unet, text_encoder().requires_grad_(True))
    noising = schedule()
    codes, captions = latents()
    loop = Loop("text", pair, args.steps, 3e-4, decay=0.998)

    def words(rng: np.random.Generator, index: int) -> str:
        choices, person = captions[index], index // SHOTS
        said = choices[rng.integers(len(choices))]
        if person < PEOPLE and rng.random() < SAID:
            said = re.sub(r"\b(person|man|woman)\b", rf"{NAMES[person % len(NAMES)]} \1", said, count=1)
        return "" if rng.random() < 0.1 else said

    def loss(step: int) -> Tensor:
        rng, stream = batch_rng("text", step)
        known = rng.random(BATCH) < NAMED
        chosen = np.where(known, rng.integers(PEOPLE * SHOTS, size=BATCH), rng.integers(len(codes), size=BATCH))
        prompts = [words(rng, int(index)) for index in chosen]
        tokens = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        states = pair.encoder(tokens).last_hidden_state
        clean = codes[torch.from_numpy(chosen)].float()
        return denoising(unet, noising, clean, states, stream) + KEEP * pair.kept(tokens, states)

    if not args.export_only:
        loop.run(loss)
    loop.averaged()
    save_module(pair.unet, "unet")
    save_module(pair.encoder, "text_encoder")
    loop.record(batch=BATCH)


if __name__ == "__main__":
    main()
