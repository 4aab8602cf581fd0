"""The super-resolution stage of a pixel cascade (DeepFloyd IF-II): a pixel model that sees a picture and words, too.

Behind :class:`redcloak.models.pixel.PixelDiffusion` it is one more model that predicts the noise in a state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Generator, Tensor

from redcloak.api import Machine
from redcloak.backbone import quietly
from redcloak.errors import UserError
from redcloak.memory import placed
from redcloak.models.pixel import PixelDiffusion
from redcloak.parts import check_part
from redcloak.rng import randn

PARTS = ("unet", "scheduler", "text_encoder", "tokenizer")


@dataclass
class Cascade:
    """A second stage in its parts. ``level`` is the noise step that its small picture gets, and that it is told of."""

    unet: Any
    alphas_cumprod: Tensor
    text_encoder: Any
    tokenizer: Any
    device: torch.device
    level: int = 250  # a quarter of the schedule: IF's ``aug_level`` when it draws in another style

    @classmethod
    def load(cls, folder: Path, machine: Machine) -> Cascade:
        """Load a local diffusers folder of the stage: safetensors only, every parameter frozen.

        Raises:
            UserError: a part is missing, its weights are a pickle, or the model is no second stage.
        """
        from diffusers import DDPMScheduler, UNet2DConditionModel
        from transformers import AutoTokenizer, T5EncoderModel

        for part in PARTS:
            check_part(folder / part)
        with quietly():
            unet, text = (
                placed(kind.from_pretrained(folder / part, use_safetensors=True), machine)
                for kind, part in ((UNet2DConditionModel, "unet"), (T5EncoderModel, "text_encoder"))
            )
        if (unet.config.in_channels, unet.config.out_channels) != (6, 6):
            raise UserError(
                f"model {folder}: its unet takes {unet.config.in_channels} channels; a second stage takes 6."
            )
        scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        return cls(unet, (1 - scheduler.betas.double()).cumprod(0), text, tokenizer, torch.device(machine.device))

    @property
    def side(self) -> int:
        """The side of the pictures that the stage makes."""
        return int(self.unet.config.sample_size)

    @torch.no_grad()
    def embed(self, prompt: str) -> Tensor:
        """A prompt -> T5's hidden states ``(1, L, D)``, padded to 77 tokens as IF pads."""
        tokens = self.tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        states: Tensor = self.text_encoder(
            tokens.input_ids.to(self.device), attention_mask=tokens.attention_mask.to(self.device)
        ).last_hidden_state
        return states

    def beside(self, images: Tensor, prompt: str, guidance: float, generators: Sequence[Generator]) -> PixelDiffusion:
        """The stage as a pixel model that sees these images, in [0, 1] and of its side, with noise of ``level``.

        Random: that noise, from ``generators[i]``.
        """
        power = float(self.alphas_cumprod[self.level])
        noise = randn(images, generators)
        shown = (math.sqrt(power) * (images * 2 - 1) + math.sqrt(1 - power) * noise).to(self.device)
        words = torch.cat([self.embed(""), self.embed(prompt)]).repeat_interleave(len(images), 0)
        level = torch.full((2 * len(images),), self.level, device=self.device)

        def answer(state: Tensor, step: int) -> SimpleNamespace:
            seen = torch.cat([state, shown], 1)
            found = self.unet(torch.cat([seen, seen]), step, words, class_labels=level).sample
            without, wanted = found.chunk(2)
            guided = without[:, :3] + guidance * (wanted[:, :3] - without[:, :3])
            return SimpleNamespace(sample=torch.cat([guided, wanted[:, 3:]], 1))

        return PixelDiffusion(answer, self.alphas_cumprod, self.device, "learned_range", batch=len(images))
