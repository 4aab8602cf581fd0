"""CLIP's image and text towers in one space: alignment scores and the misalignment analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from redcloak.models.features import resized


@dataclass
class Clip:
    """A frozen CLIP. Embeddings are unit vectors; of images the middle square is resized bicubically to ``side``.

    Cite: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
    """

    image: Any
    text: Any
    tokenizer: Any
    device: torch.device
    side: int = 64

    @classmethod
    def load(cls, folder: Path, tokenizer: Path, device: str = "cpu") -> Clip:
        """Load the small suite's towers: ``image/`` (ours) and ``text/`` (transformers), safetensors only.

        A folder with a ``config.json`` is a whole CLIP of transformers with its tokenizer, such as
        openai/clip-vit-base-patch32.
        """
        if (folder / "config.json").is_file():
            from redcloak.models.clip_folder import from_folder

            return from_folder(folder, device)
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        from redcloak.backbone import quietly
        from redcloak.models.nets import ImageTower

        image = ImageTower.from_folder(folder / "image").to(device)
        with quietly():
            text = CLIPTextModelWithProjection.from_pretrained(folder / "text", use_safetensors=True)
        text = text.float().eval().requires_grad_(False).to(device)
        return cls(image, text, CLIPTokenizer.from_pretrained(tokenizer), torch.device(device))

    def embed_images(self, images: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` in [0, 1] -> unit embeddings ``(N, D)``, differentiable."""
        return F.normalize(self.image(resized(images.to(self.device), self.side)), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit embeddings ``(N, D)``."""
        tokens = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return F.normalize(self.text(tokens.to(self.device)).text_embeds, dim=-1)

    @torch.no_grad()
    def zero_shot(self, images: Tensor, texts: Sequence[str], *, temperature: float = 100.0) -> Tensor:
        """The share of each text for each image, ``softmax(temperature * cosine)``: ``(N, texts)``."""
        return (temperature * self.embed_images(images) @ self.embed_texts(texts).T).softmax(-1)
