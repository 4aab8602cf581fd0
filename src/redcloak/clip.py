"""CLIP's image and text towers in one space: alignment scores and the misalignment analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class Clip:
    """A frozen CLIP. Embeddings are unit vectors; of images the middle square is resized to the tower's own size.

    Cite: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
    """

    image: Any
    text: Any
    tokenizer: Any
    device: torch.device
    side: int = 64

    @classmethod
    def load(cls, folder: Path, tokenizer: Path, device: str = "cpu") -> Clip:
        """Load the small suite's towers: ``image/`` (ours) and ``text/`` (transformers), safetensors only."""
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        from redcloak.backbone import quietly
        from redcloak.nets import ImageTower

        image = ImageTower.from_folder(folder / "image").to(device)
        with quietly():
            text = CLIPTextModelWithProjection.from_pretrained(folder / "text", use_safetensors=True)
        text = text.float().eval().requires_grad_(False).to(device)
        return cls(image, text, CLIPTokenizer.from_pretrained(tokenizer), torch.device(device))

    def embed_images(self, images: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` in [0, 1] -> unit embeddings ``(N, D)``, differentiable."""
        images = _middle(images.to(self.device))
        if images.shape[-2:] != (self.side, self.side):
            images = F.interpolate(images, size=(self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
        return F.normalize(self.image(images), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit embeddings ``(N, D)``."""
        tokens = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return F.normalize(self.text(tokens.to(self.device)).text_embeds, dim=-1)

    @torch.no_grad()
    def zero_shot(self, images: Tensor, texts: Sequence[str], *, temperature: float = 100.0) -> Tensor:
        """The share of each text for each image, ``softmax(temperature * cosine)``: ``(N, texts)``."""
        return (temperature * self.embed_images(images) @ self.embed_texts(texts).T).softmax(-1)


def _middle(images: Tensor) -> Tensor:
    """The middle square, as CLIP was trained and as photos are fitted: a squeezed face is another face."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]
