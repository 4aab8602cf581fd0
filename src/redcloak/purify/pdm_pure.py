"""PDM-Pure: a few large steps of a pixel-space cascade's second stage, then super-resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pydantic import Field, field_validator
from torch import Generator, Tensor

from redcloak.api import Context, Machine, Method
from redcloak.config import MethodConfig
from redcloak.errors import UserError
from redcloak.models.cascade import Cascade
from redcloak.models.pixel import CLEAN, PixelDiffusion, sections
from redcloak.purify.upscale import prompt_of, resize

METHOD = Method(
    title="PDM-Pure",
    cite="Xue and Chen, Pixel is a Barrier: Diffusion Models Are More Adversarially Robust Than We Think, 2024.",
    version=2,
    license="Apache-2.0 (DeepFloyd IF's weights: their own licence; the authors' code has none)",
    stochastic=True,
    needs=("pixel", "upscaler"),
)


class Config(MethodConfig):
    """How far to noise and how coarsely to come back. Defaults: the authors' script."""

    weights: Path | None = Field(
        None, description="a diffusers folder of DeepFloyd IF's second stage; by default the suite's own pixel model"
    )
    respacing: str = Field(
        "10,0,0,0,0,0,0,0,0,0",
        pattern=r"^\d+(,\d+)*$",
        description="steps kept of each equal section of the schedule; a later script: 10,10,10,10,10,0,0,0,0,0",
    )
    start: int = Field(4, ge=0, le=999, description="kept step that the picture is noised to; the later script: 44")
    guidance: float = Field(7.0, ge=1, le=30, description="of the second stage towards its prompt")
    prompt: str = Field("a picture", description="of the second stage; the authors caption the picture")
    enlarge: bool = Field(True, description="then super-resolve what the model made, x4, before it is brought back")
    noise_level: int = Field(20, ge=0, le=350, description="of the super-resolution")

    @field_validator("respacing", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) else value

    def slots(self) -> tuple[str, ...]:
        """The suite's own models that are used so."""
        return ("pixel",) * (self.weights is None) + ("upscaler",) * self.enlarge


def pdm_pure(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Noise the picture to ``start`` of a thinned schedule, walk back in ``start + 1`` steps, super-resolve.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. The picture is resized to the model's side before and, x4
    super-resolved, back after. By default the ten steps kept are 0, 11, ..., 99 of 1,000, and the picture is noised to
    44: little noise, in few steps. DeepFloyd's stage (``weights``) sees beside the noisy state the picture shrunk to a
    quarter, with its own noise of step 250, and a prompt; the suite's pixel model, which stands in for it, sees the
    state alone: then it is DiffPure in few steps. Two things are not the authors': IF clips by a threshold that adapts
    (0.95), here it is fixed; and they draw the x4 picture in 50 steps at guidance 4, the suite's upscaler in its own.
    Random: the noise, the walk's and the upscaler's, from ``generators[i]``.

    Cite: Xue and Chen, arXiv 2404.13320. License: Apache-2.0 with the small suite; that of the weights otherwise.
    """
    suite, (height, width) = context.suite, images.shape[-2:]
    if config.weights:
        # In full precision: the cache key of a stage of the user's knows no other, and T5 overflows in half of it.
        stage = _cascade(config.weights, replace(suite.machine, precision="fp32"))
        shown = resize(images, stage.side, stage.side)
        small = resize(resize(shown, stage.side // 4, stage.side // 4), stage.side, stage.side)
        model = stage.beside(small, config.prompt, config.guidance, generators)
    else:
        model = replace(suite.pixel, batch=len(images))
        shown = resize(images, model.native, model.native)
    made = model.purified(shown, walk_of(model, config), generators)
    if config.enlarge:
        made = suite.upscaler(made, prompt_of(context), config.noise_level, generators)
    return resize(made, height, width)


def walk_of(model: PixelDiffusion, config: Config) -> tuple[int, ...]:
    """The model's steps to visit, from ``start`` of the thinned schedule down to the picture."""
    thinned = sections(len(model.alphas_cumprod), [int(count) for count in config.respacing.split(",")])
    if config.start >= len(thinned):
        raise UserError(f"start = {config.start}: the thinned schedule has {len(thinned)} steps; give a smaller one.")
    return (*reversed(thinned[: config.start + 1]), CLEAN)


@lru_cache(maxsize=1)
def _cascade(folder: Path, machine: Machine) -> Cascade:
    return Cascade.load(folder, machine)
