"""A frozen pixel-space diffusion model: noise pictures to one of its steps, and walk back.

Steps are those that the model is told, 0 to T - 1, and ``CLEAN`` is the picture itself; a walk is a descending sequence
of them. Images are in [0, 1] at the door and states, what is noisy, in the model's [-1, 1]. A further axis may stand
behind the first: ``(N, K, 3, H, W)`` is K crops of each image, whose noise comes from the one generator of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import CPU, Context, Machine
from redcloak.backbone import quietly
from redcloak.config import MethodConfig, transport
from redcloak.errors import UserError
from redcloak.memory import placed
from redcloak.parts import check_part
from redcloak.rng import randn

CLEAN = -1
Variance = Literal["fixed_small", "fixed_large", "learned_range"]


@dataclass(frozen=True)
class PixelDiffusion:
    """A model that predicts the noise in a state, and the schedule it was trained on.

    ``variance`` of a step back: one of DDPM's two bounds, or between them as the model's further outputs say.
    ``batch`` is how many pictures pass the model at once; it costs memory and changes no result.
    """

    unet: Any
    alphas_cumprod: Tensor
    device: torch.device
    variance: Variance = "fixed_small"
    batch: int = 16

    @classmethod
    def load(cls, folder: Path, machine: Machine = CPU) -> Self:
        """Load a diffusers ``UNet2DModel`` with its scheduler: safetensors only, frozen, in the machine's precision.

        Raises:
            UserError: the folder is not one, holds a pickle, or a model of another kind.
        """
        from diffusers import DDPMScheduler, UNet2DModel

        check_part(folder, "unet")
        if not (folder / "scheduler_config.json").is_file():
            raise UserError(f"model {folder}: it has no scheduler_config.json beside its weights; add the schedule.")
        with quietly():
            unet = UNet2DModel.from_pretrained(folder, use_safetensors=True)
            scheduler = DDPMScheduler.from_pretrained(folder)
        placed(unet, machine).to(memory_format=torch.channels_last)  # 1.5 to 2 times as fast on a CPU
        if machine.memory == "low":
            unet.enable_gradient_checkpointing()
        variance = _variance(folder, unet.config, scheduler.config)
        return cls(unet, (1 - scheduler.betas.double()).cumprod(0), torch.device(machine.device), variance)

    @property
    def native(self) -> int:
        """The side of the pictures that the model was trained on."""
        return int(self.unet.config.sample_size)

    def window(self, side: int | None) -> int:
        """The side of the pictures that pass the model: ``side``, by default the native one.

        Raises:
            UserError: the model cannot halve such a picture as often as it does.
        """
        factor = 2 ** max(1, len(self.unet.config.block_out_channels) - 1)
        if side is not None and side % factor:
            near = max(1, round(side / factor)) * factor
            raise UserError(f"window = {side}: the pixel model takes multiples of {factor}; give {near}.")
        return side or self.native

    def signal(self, step: int) -> float:
        """The power of the picture in a state at a step; 1 at ``CLEAN``."""
        return 1.0 if step == CLEAN else float(self.alphas_cumprod[step])

    def descent(self, steps: int) -> tuple[int, ...]:
        """The walk that forgets the last ``steps`` of the model's steps, every one of them, down to ``CLEAN``."""
        if steps > len(self.alphas_cumprod):
            raise UserError(f"steps = {steps}: the pixel model has {len(self.alphas_cumprod)}; give at most so many.")
        return tuple(range(steps - 1, CLEAN - 1, -1))

    def noised(self, images: Tensor, step: int, generators: Sequence[Generator]) -> Tensor:
        """Forward process: images in [0, 1] -> a state at a step. Random: the noise, from ``generators[i]``."""
        clean, power = images.to(self.device) * 2 - 1, self.signal(step)
        return math.sqrt(power) * clean + math.sqrt(1 - power) * randn(clean, generators)

    def predicted_noise(self, state: Tensor, step: int) -> Tensor:
        """What the model takes for noise in a state, in a standard deviation of 1."""
        return self._answer(state, step)[0]

    def predicted_clean(self, state: Tensor, step: int) -> Tensor:
        """The picture behind a state in one look, in [0, 1]."""
        return pictures(_clean(state, self.predicted_noise(state, step), self.signal(step)))

    def step(self, state: Tensor, step: int, onto: int, generators: Sequence[Generator]) -> Tensor:
        """One ancestral step of DDPM to the earlier ``onto``, which need not be the next one.

        The predicted picture is cut to the range of pictures. Random: the posterior's noise, from ``generators[i]``;
        none on the step onto ``CLEAN``.

        Cite: Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020, eq. 6-7; variances between its two:
        Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021, eq. 15.
        """
        here, there = self.signal(step), self.signal(onto)
        noise, learned = self._answer(state, step)
        beta, left = 1 - here / there, (1 - there) / (1 - here)
        clean = _clean(state, noise, here)
        mean = math.sqrt(there) * beta / (1 - here) * clean + math.sqrt(here / there) * left * state
        if onto == CLEAN:
            return mean
        share = (learned + 1) / 2 if self.variance == "learned_range" else float(self.variance == "fixed_large")
        log_variance = torch.as_tensor(share * math.log(beta) + (1 - share) * math.log(beta * left))
        return mean + (log_variance / 2).exp() * randn(state, generators)

    def denoise(self, state: Tensor, walk: Sequence[int], generators: Sequence[Generator]) -> Tensor:
        """Walk a state at the first step of a walk back along it; images in [0, 1]."""
        for step, onto in pairwise(walk):
            state = self.step(state, step, onto, generators)
        return pictures(state)

    def purified(self, images: Tensor, walk: Sequence[int], generators: Sequence[Generator]) -> Tensor:
        """Images in [0, 1], noised to the first step of a walk and walked back along it."""
        return self.denoise(self.noised(images, walk[0], generators), walk, generators).to(images.device)

    def _answer(self, state: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The predicted noise, and the outputs that say the variance, if there are any."""
        flat = state.flatten(0, -4).contiguous(memory_format=torch.channels_last)
        found = torch.cat([self.unet(part, step).sample for part in torch.split(flat, self.batch)])
        found = found.reshape(*state.shape[:-3], *found.shape[1:])
        return found[..., :3, :, :], found[..., 3:, :, :]


class PixelConfig(MethodConfig):
    """Base of the purifiers that walk back with the suite's pixel model."""

    window: int | None = Field(
        None, ge=8, le=1024, description="side of what passes the model, in pixels; by default the model's own"
    )
    batch: int = transport(16, ge=1, le=1024, description="tiles that pass the model at once")

    def model(self, context: Context) -> PixelDiffusion:
        """The suite's pixel model, taking so many tiles at once."""
        return replace(context.suite.pixel, batch=self.batch)


def respaced(total: int, count: int) -> list[int]:
    """``count`` of ``total`` steps, evenly spaced with both ends (one: the first), as guided-diffusion has it."""
    return [round(index * (total - 1) / max(count - 1, 1)) for index in range(count)]


def sections(total: int, counts: Sequence[int]) -> list[int]:
    """Steps of equal sections of a schedule, ``counts`` of each, as guided-diffusion's ``"10,0,0"`` has it."""
    steps, start = [], 0
    for index, count in enumerate(counts):
        size = total // len(counts) + (index < total % len(counts))
        steps += [start + step for step in respaced(size, count)]
        start += size
    return steps


def pictures(state: Tensor) -> Tensor:
    """A state without noise as images in [0, 1]."""
    return ((state + 1) / 2).clamp(0, 1)


def _clean(state: Tensor, noise: Tensor, power: float) -> Tensor:
    return ((state - math.sqrt(1 - power) * noise) / math.sqrt(power)).clamp(-1, 1)


def _variance(folder: Path, model: Any, scheduler: Any) -> Variance:
    """How the variance of a step back is told; refuses what is no model of the noise in a colour picture."""
    if scheduler.prediction_type != "epsilon":
        raise UserError(f"model {folder}: it predicts {scheduler.prediction_type!r}; the pixel slot takes 'epsilon'.")
    channels = 6 if scheduler.variance_type == "learned_range" else 3
    if scheduler.variance_type not in get_args(Variance) or (model.in_channels, model.out_channels) != (3, channels):
        raise UserError(
            f"model {folder}: {model.in_channels} channels to {model.out_channels} with variance "
            f"{scheduler.variance_type!r}; the pixel slot takes 3 to 3 (fixed_small, fixed_large) or 6 (learned_range)."
        )
    kind: Variance = scheduler.variance_type
    return kind
