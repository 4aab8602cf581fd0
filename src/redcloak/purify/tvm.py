"""Total variation minimisation: drops values at random, and draws the picture of least variation through the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Kind, Method
from redcloak.config import Choice, MethodConfig, later
from redcloak.models import sdx4
from redcloak.purify.upscale import prompt_of, resize
from redcloak.rng import rand
from redcloak.variation import minimise

METHOD = Method(
    title="Total variation minimisation (TVM)",
    cite="Guo et al., Countering Adversarial Images using Input Transformations, ICLR 2018; as a purifier of photos: "
    "Liu et al., arXiv 2406.18944, appendix.",
    stochastic=True,
)


class Config(MethodConfig):
    """Which picture is fitted, how much is dropped, and how smooth the rest becomes."""

    mode: Literal["whole", "small"] = Field(
        "whole",
        description="whole: at full size (Guo et al.); small: shrunk, then enlarged by super-resolution (Liu et al.)",
    )
    variant: Literal["paper", "released"] = Field(
        "paper",
        description="differences inside each channel; released: rows join the channels, columns are R-G, G-B, B-R, and "
        "the misfit is a largest singular value",
    )
    drop: float | None = Field(None, ge=0, lt=1, description="share of values dropped; by default 0.5, small: 0.02")
    weight: float | None = Field(
        None,
        gt=0,
        description="of the variation; by default 0.03 (224-pixel photos with values in [0, 1]), small: 0.01",
    )
    shrink: float = Field(8.0, ge=1, le=64, description="small: side before / side after; the paper's is 512 / 64")
    noise_level: int = Field(20, ge=0, le=350, description="small: the upscaler's")
    upscaler: str | None = later(
        None,
        min_length=1,
        description="small: the Stable Diffusion x4 upscaler, a local diffusers folder or a hub id, in place of the "
        "suite's",
    )
    tolerance: float = Field(1e-4, gt=0, lt=1, description="the solver stops where both relative residuals are below")
    steps: int = Field(500, ge=1, description="most iterations of the solver")

    def parts(self) -> tuple[tuple[Kind, Choice], ...]:
        """The suite's upscaler, where the picture is shrunk and no other is given."""
        return (("purify", Choice(name="upscale")),) if self.mode == "small" and self.upscaler is None else ()

    def models(self) -> dict[str, str]:
        """What identifies the weights of the upscaler that is given."""
        given = self.upscaler if self.mode == "small" else None
        return {} if given is None else {"upscaler": sdx4.fingerprint(given)}

    def check(self) -> None:
        """See that the upscaler that is given is there."""
        if self.mode == "small" and self.upscaler is not None:
            sdx4.find(self.upscaler)


def tvm(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Minimise ``|(1 - X) (Z - x)|_2 + weight TV_2(Z)`` over pictures Z, X a Bernoulli mask of dropped values.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. TV_2 sums, over channels, the l2 norms of the differences of
    whole neighbouring rows and of whole neighbouring columns; neither norm is squared. ``small`` shrinks before and
    enlarges x4 by the suite's upscaler, or by ``upscaler``, until the size is reached again (512 -> 64 -> 256 -> 128 ->
    512).
    ``variant=released`` minimises what Liu et al.'s code does: its columns are those of the array ``(H, 3 W)`` with the
    channels interleaved, so that it takes the variation between colours; and its misfit, cvxpy's norm 2 of that matrix,
    is the largest singular value.
    Since the first norm is not squared, a small weight leaves every value that was kept exactly as it was: so do the
    paper's 0.01 and 0.02 at 64 pixels, which fill the dropped values and otherwise only shrink (``released``: almost).
    Random: the mask, each value on its own, and the upscaler's noise, from ``generators[i]``. Not differentiable.

    Cite: Guo et al., ICLR 2018, equations 1 and 2; Liu et al., arXiv 2406.18944. License: Apache-2.0.
    """
    small = config.mode == "small"
    height, width = images.shape[-2:]
    if small:
        images = resize(images, max(1, round(height / config.shrink)), max(1, round(width / config.shrink)))
    drop = config.drop if config.drop is not None else (0.02 if small else 0.5)
    kept = rand(images, generators) >= drop
    if config.variant == "released":
        images, kept = _interleaved(images), _interleaved(kept)
    weight, released = config.weight or (0.01 if small else 0.03), config.variant == "released"
    result = minimise(images, kept, weight, config.tolerance, config.steps, largest=released)
    if released:
        result = result.reshape(*result.shape[::2], -1, 3).movedim(-1, 1)
    result = result.clamp(0, 1).contiguous()
    return _enlarged(result, height, width, config, context, generators) if small else result


def _interleaved(images: Tensor) -> Tensor:
    """``(N, 3, H, W)`` -> ``(N, 1, H, 3 W)``, the colours of a pixel side by side."""
    return images.movedim(1, -1).flatten(-2).unsqueeze(1)


def _enlarged(
    images: Tensor, height: int, width: int, config: Config, context: Context, generators: Sequence[Generator]
) -> Tensor:
    """Super-resolve until the size is reached; the last pass starts at a quarter of it, as the authors' training does.

    MetaCloak's and Liu et al.'s: 64 -> 256, resized to 128 -> 512.
    """
    enlarge, prompt = _upscaler(config, context), prompt_of(context)
    with torch.no_grad():
        large = enlarge(images, prompt, config.noise_level, generators)
        while large.shape[-2] < height or large.shape[-1] < width:
            quarter = min(large.shape[-2], -(-height // 4)), min(large.shape[-1], -(-width // 4))
            large = enlarge(resize(large, *quarter), prompt, config.noise_level, generators)
        return resize(large, height, width)


def _upscaler(config: Config, context: Context) -> Callable[[Tensor, str, int, Sequence[Generator]], Tensor]:
    """The suite's, or the one that is given."""
    if config.upscaler is None:
        return context.suite.upscaler
    return partial(sdx4.enlarge, sdx4.load(sdx4.find(config.upscaler), context.suite.device))
