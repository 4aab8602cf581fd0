"""PDM-Pure: a few large steps of a pixel-space cascade's second stage, then super-resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Kind, Machine, Method
from redcloak.cascade import Cascade
from redcloak.config import Choice, MethodConfig
from redcloak.errors import UserError
from redcloak.pixel import CLEAN, PixelDiffusion, respaced
from redcloak.purify import upscale
from redcloak.purify.upscale import resize

METHOD = Method(
    title="PDM-Pure",
    cite="Xue and Chen, Pixel is a Barrier: Diffusion Models Are More Adversarially Robust Than We Think, 2024.",
    license="Apache-2.0 (DeepFloyd IF's weights: their own licence; the authors' code has none)",
    stochastic=True,
    needs=("pixel", "upscaler"),
)


class Config(MethodConfig):
    """How far to noise and how coarsely to come back. Defaults: the authors' script."""

    weights: Path | None = Field(
        None, description="a diffusers folder of DeepFloyd IF's second stage; by default the suite's own pixel model"
    )
    respacing: int = Field(10, ge=2, le=1000, description="steps that the model's schedule is thinned to")
    start: int = Field(4, ge=0, le=999, description="step of the thinned schedule that the picture is noised to")
    guidance: float = Field(7.0, ge=1, le=30, description="of the second stage towards its prompt")
    prompt: str = Field("", description="of the second stage; the authors caption the picture")
    enlarge: bool = Field(True, description="then super-resolve (method upscale) at the size that came in")

    def parts(self) -> tuple[tuple[Kind, Choice], ...]:
        """The enlargement is a method of its own."""
        return (("purify", Choice(name="upscale")),) if self.enlarge else ()


def pdm_pure(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Noise the picture to ``start`` of a thinned schedule, walk back in ``start + 1`` steps, super-resolve.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. The picture is resized to the model's side before and back
    after. DeepFloyd's stage (``weights``) sees the picture itself beside the noisy state, and a prompt; the suite's
    pixel model, which stands in for it, sees the state alone: then it is DiffPure in few, large steps. Random: the
    noise, the walk's and the upscaler's, from ``generators[i]``.

    Cite: Xue and Chen, arXiv 2404.13320. License: Apache-2.0 with the small suite; that of the weights otherwise.
    """
    suite, (height, width) = context.suite, images.shape[-2:]
    if config.weights:
        stage = _cascade(config.weights, suite.machine)
        shown = resize(images, stage.side, stage.side)
        model = stage.beside(shown, config.prompt, config.guidance)
    else:
        model = replace(suite.pixel, batch=len(images))
        shown = resize(images, model.native, model.native)
    back = resize(model.purified(shown, walk_of(model, config), generators), height, width)
    if not config.enlarge:
        return back
    settings = suite.settings("upscale", {})
    return upscale.upscale(back, upscale.Config(**settings), context, generators)


def walk_of(model: PixelDiffusion, config: Config) -> tuple[int, ...]:
    """The model's steps to visit, from ``start`` of the thinned schedule down to the picture."""
    if config.start >= config.respacing:
        raise UserError(
            f"start = {config.start}: the thinned schedule has {config.respacing} steps; give a smaller one."
        )
    thinned = respaced(len(model.alphas_cumprod), config.respacing)
    return (*reversed(thinned[: config.start + 1]), CLEAN)


@lru_cache(maxsize=1)
def _cascade(folder: Path, machine: Machine) -> Cascade:
    return Cascade.load(folder, machine)
