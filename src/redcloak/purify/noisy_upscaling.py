"""Noisy upscaling: add noise, then super-resolve with a model that is told of more noise than there is."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import MethodConfig
from redcloak.purify.upscale import redrawn
from redcloak.rng import randn

METHOD = Method(
    title="Noisy upscaling",
    cite="Hönig et al., Adversarial Perturbations Cannot Reliably Protect Artists From Generative AI, ICLR 2025.",
    stochastic=True,
    needs=("upscaler",),
    differentiable=True,
)


class Config(MethodConfig):
    """The noise that is added, and the noise that the upscaler is told of. Defaults: the authors' scripts."""

    sigma: float = Field(0.1, ge=0, le=1, description="standard deviation of the noise added to pixels in [0, 1]")
    told: int = Field(320, ge=0, le=350, description="noise level that the upscaler is told of, without adding it")
    shrink: float = Field(1.0, ge=1, le=8, description="side before / side after shrinking, before x4")
    prompt: str | None = Field(
        None, description="the upscaler's; default: a photo of a CLASS (authors: a caption); prompt= for none"
    )


def noisy_upscaling(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Add Gaussian noise, enlarge x4 while the upscaler believes in noise level ``told``, return at the first size.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. The authors patch diffusers so that the model's noise label is
    ``told`` while only the noise of level 0 is added for it, 0.005 of [0, 1]; here none is: it is a twentieth of
    ``sigma``. Plain diffusers would add that of ``told``, too. Random: the noise, from ``generators[i]``.

    Cite: Hönig et al., ICLR 2025, section 4.1. License: Apache-2.0 with the small suite; else that of the upscaler.
    """
    noisy = (images + config.sigma * randn(images, generators)).clamp(0, 1)
    return redrawn(noisy, config.shrink, config.told, context, generators, prompt=config.prompt, added=0)
