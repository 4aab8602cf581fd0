"""GrIDPure: many small purifications by pixel diffusion, in overlapping tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.grid import Grid, padded
from redcloak.models.pixel import PixelConfig

METHOD = Method(
    title="GrIDPure (pixel diffusion in a grid of tiles)",
    cite="Zhao et al., Can Protective Perturbation Safeguard Personal Data from Being Exploited by Stable Diffusion?, "
    "CVPR 2024, arXiv 2312.00084.",
    license="Apache-2.0 (the small suite's own model; guided-diffusion's: MIT)",
    stochastic=True,
    needs=("pixel",),
    differentiable=True,
)


class Config(PixelConfig):
    """How far each round noises, how many there are, and how much of the picture each keeps."""

    variant: Literal["paper", "released"] = Field(
        "paper", description="released: the picture is cut to 8 bits after each round, as the authors' code does"
    )
    steps: int = Field(10, ge=0, le=1000, description="how many of the model's steps a tile is noised by, each round")
    rounds: int = Field(20, ge=1, le=1000, description="purifications, one after the other")
    gamma: float = Field(0.1, ge=0, lt=1, description="share of the picture before a round in the picture after it")


def gridpure(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Purify overlapping tiles a little, average them, keep a share of the picture, and begin again.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Random: the noise of every tile and step, from
    ``generators[i]``. Tiles stand at half of their side, one more is put together from the picture's four corners; all
    tiles of all images pass the model together. A picture smaller than a tile is continued by reflection.
    In ``released`` each round cuts the picture down to the grey level below, half a level on average, as the authors'
    conversion to a file does; the gradient of that is taken for the identity's.

    Cite: Zhao et al., CVPR 2024 (20 rounds of 10 steps, gamma 0.1). License: Apache-2.0 with the small suite; that of
    the pixel model otherwise.
    """
    model = config.model(context)
    side, walk = model.window(config.window), model.descent(config.steps)
    height, width = images.shape[-2:]
    current = padded(images, side)
    grid = Grid(current.shape[-2], current.shape[-1], side, corners=True)
    for _ in range(config.rounds):
        merged = grid.merge(model.purified(grid.cut(current), walk, generators))
        current = (1 - config.gamma) * merged + config.gamma * current
        if config.variant == "released":
            current = current + ((current.clamp(0, 1) * 255).floor() / 255 - current).detach()
    return current[..., :height, :width].clamp(0, 1)
