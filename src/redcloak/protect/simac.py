"""SimAC: ASPL at the diffusion steps where a photo is most easily disturbed, with disturbed features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.backbone import Backbone
from redcloak.crafting.balls import project, quantise
from redcloak.crafting.objectives import (
    EVERY,
    Objective,
    Rows,
    among,
    denoising,
    embedded,
    of,
    through,
    value_and_gradient,
)
from redcloak.crafting.surrogate import AlternatingConfig, Surrogate, Variant, alternate
from redcloak.prompts import NONE
from redcloak.rng import randn

METHOD = Method(
    title="SimAC",
    cite="Wang et al., SimAC: A Simple Anti-Customization Method for Protecting Face Privacy, CVPR 2024.",
    license="Apache-2.0 (the authors' code has no licence; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(AlternatingConfig):
    """ASPL's rounds, the search for diffusion steps, and the weight of the features."""

    keep: int = Field(100, ge=40, le=1000, description="the search ends when so few diffusion steps are left")
    search_steps: int = Field(50, ge=0, description="turns of the search at most")
    width: int = Field(20, ge=1, description="diffusion steps struck out on either side of the least sensitive one")
    feature_weight: float = Field(1.0, ge=0, description="weight of the features' distance from the clean photo's")
    variant: Variant = Field(
        "paper", description="released: the features' loss is detached and has no gradient, so it is left out here"
    )


def simac(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """ASPL with t from each photo's own most sensitive steps, ascending ``L + w |f(x) - f(x_clean)|^2``.

    The search draws five steps, strikes out the surroundings of the one with the least gradient of the image, and
    moves the image at the one with the most. ``f``: the residual blocks of the UNet's last up block.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos of a
    subject are protected together: the surrogate sees all of them. The authors' table was made with the features'
    loss detached (their issue 3), which is ``released``.
    Random: the search's and the ascent's draws from ``generators[i]``, the surrogate's from a stream of all of them.

    Cite: Wang et al., CVPR 2024, algorithm 1 and equation 9. License: Apache-2.0.
    """
    backbone = context.suite.backbone
    lists = [
        _sensitive(backbone, context, images[row : row + 1], config, generators[row]) for row in range(len(images))
    ]
    weight = config.feature_weight if config.variant == "paper" else 0.0
    with torch.no_grad():
        clean = backbone.encode(images)

    def loss(surrogate: Surrogate) -> Objective:
        if not weight:
            return denoising(backbone, surrogate.prompt, times=among(lists))
        return _with_features(surrogate, clean, lists, weight)

    return quantise(alternate(images, config, context, generators, loss), images, config.ball)


def _sensitive(backbone: Backbone, context: Context, image: Tensor, config: Config, stream: Generator) -> Tensor:
    """The diffusion steps that are left after the greedy search, for one photo."""
    words = context.decoupling or NONE
    left, moved, plan = torch.arange(len(backbone.alphas_cumprod)), image, config.plan
    for _ in range(config.search_steps):
        if len(left) <= max(config.keep, 5):
            break
        drawn = left[torch.randperm(len(left), generator=stream)[:5]]
        gradients = []
        for time in drawn:
            objective = denoising(backbone, words.instance(context.subject), times=among([time.view(1)]))
            if context.lens:
                objective = through(objective, context.lens, context.lens_draws)
            gradients.append(value_and_gradient(objective, moved, [stream])[1])
        sizes = torch.stack([gradient.abs().sum() for gradient in gradients])
        weakest, strongest = int(drawn[sizes.argmin()]), gradients[int(sizes.argmax())]
        left = left[(left < weakest - config.width) | (left >= weakest + config.width)]
        moved = project(moved + plan.step_size * strongest.sign(), image, plan.budget)
    return left


def _with_features(surrogate: Surrogate, clean: Tensor, lists: Sequence[Tensor], weight: float) -> Objective:
    backbone, draw = surrogate.backbone, among(lists)
    embedding = embedded(backbone, surrogate.prompt)

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        latents, condition = backbone.encode(images, generators), embedding.expand(len(images), -1, -1)
        times, noise = draw(rows, generators).to(latents.device), randn(latents, generators)
        noisy, target = backbone.noised(latents, noise, times)
        with _features(backbone.unet) as seen:
            error = (backbone.unet(noisy, times, condition).sample - target).pow(2).mean((1, 2, 3))
        with torch.no_grad(), _features(backbone.unet) as known:
            backbone.unet(backbone.noised(of(clean, rows), noise, times)[0], times, condition)
        far = torch.stack([(a - b).pow(2).mean((1, 2, 3)) for a, b in zip(seen, known, strict=True)]).sum(0)
        total: Tensor = error + weight * far
        return total

    return loss


@contextmanager
def _features(unet: Any) -> Iterator[list[Tensor]]:
    """What the residual blocks of the last up block give, while the block runs."""
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, args, out: seen.append(out)) for block in unet.up_blocks[-1].resnets
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
