"""DDSPure: one look of a pixel diffusion model, at the step whose noise is as strong as the perturbation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.errors import UserError
from redcloak.grid import in_tiles
from redcloak.models.pixel import PixelConfig, PixelDiffusion
from redcloak.purify.diffpure import resized, unfinished

METHOD = Method(
    title="DDSPure (denoised smoothing by pixel diffusion)",
    cite="Carlini et al., (Certified!!) Adversarial Robustness for Free!, ICLR 2023, arXiv 2206.10550.",
    license="Apache-2.0 (the small suite's own model; guided-diffusion's: MIT)",
    stochastic=True,
    needs=("pixel",),
    differentiable=True,
)


class Config(PixelConfig):
    """How strong the noise is that the perturbation drowns in."""

    variant: Literal["paper", "released"] = Field(
        "paper",
        description="released: as the code of arXiv 2406.18944 runs it: a step chosen on 1000 steps for half the noise "
        "and counted on 250, the whole walk instead of one look, the model shown [0, 1], and the last step left out",
    )
    sigma: float = Field(11.0, gt=0, le=255, description="standard deviation of the noise, in 8-bit steps (/255)")
    tiles: bool = Field(
        False,
        description="paper: run overlapping tiles; by default the picture is resized to the model's side and back",
    )


def ddspure(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Noise as strongly as ``sigma`` and take the model's first prediction of the clean picture.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Random: the noise, from ``generators[i]``, in ``released``
    also that of the walk. The step is the first whose noise, over its signal, is at least twice ``sigma``: the model's
    pictures span [-1, 1]. ``released`` differs in the points that ``variant`` lists; there 11/255 leads to step 40
    of 1000 (noise of 0.144 over the signal), in the paper to step 23 (0.089).

    Cite: Carlini et al., ICLR 2023; as a purifier of protections: Liu et al., arXiv 2406.18944. License: Apache-2.0
    with the small suite; that of the pixel model otherwise.
    """
    model = config.model(context)
    side = model.window(config.window)
    if config.variant == "released":
        index = released_index(model, config.sigma / 255)
        return resized(images, side, lambda shown: unfinished(model, shown, index, generators))
    step = matching_step(model, config.sigma / 255)

    def purify(shown: Tensor) -> Tensor:
        return model.predicted_clean(model.noised(shown, step, generators), step).to(shown.device)

    return in_tiles(images, side, purify) if config.tiles else resized(images, side, purify)


def matching_step(model: PixelDiffusion, sigma: float) -> int:
    """The first step whose noise over its signal is at least that of ``sigma`` in [0, 1] units."""
    ratio = ((1 - model.alphas_cumprod) / model.alphas_cumprod).sqrt()
    found = (ratio >= 2 * sigma).nonzero()
    if not len(found):
        raise UserError(f"sigma = {sigma * 255:g}: the pixel model's last step has less noise; give a smaller one.")
    return int(found[0])


def released_index(model: PixelDiffusion, sigma: float) -> int:
    """The step whose signal is nearest to ``1 / (1 + sigma^2)``, counted from 1, as arXiv 2406.18944's code has it."""
    return 1 + int(torch.argmin((model.alphas_cumprod - 1 / (1 + sigma**2)).abs()))
