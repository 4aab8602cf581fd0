"""DiffPure: noise the picture to a step of a pixel diffusion model, and let the model walk back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.errors import UserError
from redcloak.grid import in_tiles
from redcloak.models.pixel import PixelConfig, PixelDiffusion, pictures, respaced
from redcloak.purify.upscale import resize
from redcloak.rng import randn

METHOD = Method(
    title="DiffPure (pixel diffusion)",
    cite="Nie et al., Diffusion Models for Adversarial Purification, ICML 2022, arXiv 2205.07460.",
    license="Apache-2.0 (the small suite's own model; guided-diffusion's: MIT)",
    stochastic=True,
    needs=("pixel",),
    differentiable=True,
)


class Config(PixelConfig):
    """How far the picture is noised, and how the model walks back."""

    variant: Literal["paper", "released"] = Field(
        "paper",
        description="released: as the code of arXiv 2406.18944 runs it: `steps` counts on a schedule of 250 (100 is "
        "step 401 of 1000), in tiles, the model shown [0, 1] where it expects [-1, 1], and the last step left out",
    )
    mode: Literal["ddpm", "sde"] = Field(
        "ddpm", description="ddpm: ancestral sampling (GrIDPure's code); sde: the reverse-time SDE (Nie et al.)"
    )
    steps: int = Field(100, ge=0, le=1000, description="ddpm: how many of the model's steps the picture is noised by")
    t_star: float = Field(0.15, gt=0, le=1, description="sde: the diffusion time up to which the picture is noised")
    sde_size: float = Field(0.001, gt=0, le=0.1, description="sde: time that one Euler-Maruyama step takes")
    tiles: bool = Field(
        False, description="run overlapping tiles; by default the picture is resized to the model's side and back"
    )

    @model_validator(mode="after")
    def _released_is_ddpm(self) -> Self:
        if self.variant == "released" and self.mode == "sde":
            raise ValueError("the released variant has mode ddpm only")
        return self


def diffpure(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Noise to a step of the suite's pixel model and walk back to the clean picture.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Random: the noise and that of the walk, from
    ``generators[i]``. ``ddpm`` noises by ``steps`` steps and takes each of them back; ``sde`` solves the reverse SDE by
    Euler-Maruyama from ``t_star``, and ends with the noise of its last step.
    ``released`` differs from the paper in four points, all kept: see ``variant``. Only the wrap-around of values that
    leave [0, 1] is not: they are cut.

    Cite: Nie et al., ICML 2022; the tiles: Liu et al., arXiv 2406.18944. License: Apache-2.0 with the small suite; that
    of the pixel model otherwise.
    """
    model = config.model(context)
    side = model.window(config.window)

    def purify(shown: Tensor) -> Tensor:
        if config.variant == "released":
            return unfinished(model, shown, config.steps, generators)
        if config.mode == "sde":
            return reverse_sde(model, shown, config.t_star, config.sde_size, generators)
        return model.purified(shown, model.descent(config.steps), generators)

    if config.tiles or config.variant == "released":
        return in_tiles(images, side, purify)
    return resized(images, side, purify)


def resized(images: Tensor, side: int, purify: Callable[[Tensor], Tensor]) -> Tensor:
    """Images purified at the side of the model, brought to it and back."""
    return resize(purify(resize(images, side, side)), *images.shape[-2:])


def unfinished(model: PixelDiffusion, images: Tensor, index: int, generators: Sequence[Generator]) -> Tensor:
    """The walk of arXiv 2406.18944's code: from ``index`` of a schedule of 250 steps, but not onto the picture.

    The model is shown the values of [0, 1] as they are, so that to it the picture is grey and of half the contrast.
    """
    schedule = respaced(len(model.alphas_cumprod), 250)
    if index >= len(schedule):
        raise UserError(f"step {index} of the released schedule: it has 250; noise less, or take variant=paper.")
    shown = (images + 1) / 2
    return (2 * model.purified(shown, schedule[index::-1], generators) - 1).clamp(0, 1)


@dataclass(frozen=True)
class Schedule:
    """The variance-preserving SDE in the limit of a linear schedule: beta(t) from ``first`` to ``last``, t in [0, 1].

    Cite: Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", ICLR 2021, eq. 32.
    """

    first: float
    last: float

    @classmethod
    def of(cls, model: PixelDiffusion) -> Self:
        """The limit of a model's schedule; a :class:`UserError` where that is not linear."""
        table = model.alphas_cumprod
        betas = 1 - table / torch.cat([table.new_ones(1), table[:-1]])
        if not torch.allclose(betas, torch.linspace(betas[0], betas[-1], len(betas)).to(betas), rtol=1e-3):
            raise UserError("diffpure: mode = 'sde' needs a pixel model with linear betas; use mode=ddpm.")
        return cls(float(betas[0]) * len(betas), float(betas[-1]) * len(betas))

    def beta(self, time: float) -> float:
        """The rate of the diffusion."""
        return self.first + (self.last - self.first) * time

    def signal(self, time: float) -> float:
        """The power of the picture."""
        return math.exp(-self.first * time - (self.last - self.first) * time**2 / 2)


def reverse_sde(
    model: PixelDiffusion, images: Tensor, start: float, size: float, generators: Sequence[Generator]
) -> Tensor:
    """Noise images to time ``start`` and solve ``dx = -(x / 2 + score) beta dt + sqrt(beta) dw`` down to 0."""
    schedule, total, count = Schedule.of(model), len(model.alphas_cumprod), max(1, round(start / size))
    clean, power, size = images.to(model.device) * 2 - 1, schedule.signal(start), start / count
    state = math.sqrt(power) * clean + math.sqrt(1 - power) * randn(clean, generators)
    for time in (start * (1 - turn / count) for turn in range(count)):
        told = min(max(round(time * total) - 1, 0), total - 1)
        score = -model.predicted_noise(state, told) / math.sqrt(1 - schedule.signal(time))
        rate = schedule.beta(time) * size
        state = state + rate * (state / 2 + score) + math.sqrt(rate) * randn(state, generators)
    return pictures(state).to(images.device)
