"""CLIP's image and text towers in one space: alignment scores and the misalignment analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass
class Clip:
    """A frozen CLIP. Embeddings are unit vectors; images are resized bicubically to the tower's own size.

    Cite: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
    """

    model: Any
    tokenizer: Any
    device: torch.device

    @classmethod
    def load(cls, folder: Path, tokenizer: Path, device: str = "cpu") -> Clip:
        """Load a local transformers folder, safetensors only."""
        from transformers import CLIPModel, CLIPTokenizer

        model = CLIPModel.from_pretrained(folder, use_safetensors=True).float().eval().requires_grad_(False)
        return cls(model.to(device), CLIPTokenizer.from_pretrained(tokenizer), torch.device(device))

    def embed_images(self, images: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` in [0, 1] -> unit embeddings ``(N, D)``, differentiable."""
        side = int(self.model.config.vision_config.image_size)
        images = images.to(self.device)
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (MEAN, STD))
        features = self.model.get_image_features(pixel_values=(images - mean) / std).pooler_output
        return F.normalize(features, dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit embeddings ``(N, D)``."""
        tokens = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        features = self.model.get_text_features(input_ids=tokens.to(self.device)).pooler_output
        return F.normalize(features, dim=-1)

    @torch.no_grad()
    def zero_shot(self, images: Tensor, texts: Sequence[str], *, temperature: float = 100.0) -> Tensor:
        """The share of each text for each image, ``softmax(temperature * cosine)``: ``(N, texts)``."""
        return (temperature * self.embed_images(images) @ self.embed_texts(texts).T).softmax(-1)
