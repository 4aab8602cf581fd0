"""DisDiff: ASPL that also takes the attention off the identifier, with steps sized by the diffusion time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.crafting.ascent import check_finite, gradients
from redcloak.crafting.attention import recorded
from redcloak.crafting.balls import project, quantise
from redcloak.crafting.objectives import EVERY, Objective, Rows, embedded, through, value_and_gradient
from redcloak.crafting.surrogate import AlternatingConfig, Surrogate, Variant, alternate, in_round
from redcloak.rng import randint, randn

METHOD = Method(
    title="DisDiff",
    cite="Liu et al., Disrupting Diffusion: Token-Level Attention Erasure Attack against Diffusion-based "
    "Customization, ACM MM 2024.",
    license="Apache-2.0 (the authors' code has no licence; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(AlternatingConfig):
    """ASPL's rounds, and the weight of the attention that is erased."""

    attention_weight: float = Field(0.1, ge=0, description="weight of the attention erasure")
    sharpness: float = Field(100.0, gt=0, description="the maps pass a softmax over tokens at this scale")
    modulate: bool = Field(True, description="scale each photo's step by (cos(pi t / T) + 1) / 2 of its diffusion time")
    variant: Variant = Field("paper", description="released: the attention is averaged over the batch's photos first")


def disdiff(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """ASPL on ``L + 0.1 E``, ``E = (1 - |A_identifier|^2 / |A|^2)^2`` of the cross-attention at a quarter of the side.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos of a
    subject are protected together: the surrogate sees all of them. The identifier's token is found in the prompt; the
    authors' code has its position fixed. Only the prompt's own words count, not the padding. The authors' script also
    searches diffusion steps as SimAC does; their paper does not, nor does this. Where the UNet has no attention at a
    quarter of the latent's side (16 of 64 in Stable Diffusion), ``E`` is 0. Random: t, eps and the posterior of each
    step from ``generators[i]``, the surrogate's from a stream of all of them.

    Cite: Liu et al., ACM MM 2024, equations 6 to 9. License: Apache-2.0.
    """
    plan, loss = config.plan, _Erasing(config, len(images))
    # ``released`` averages the attention over the photos, so that they cannot go singly.
    follow = gradients if config.variant == "paper" else value_and_gradient

    def climb(protected: Tensor, objective: Objective, turn: int) -> Tensor:
        if context.lens:
            objective = through(objective, context.lens, context.lens_draws)
        for step in range(plan.steps):
            losses, gradient = follow(objective, protected, generators, slice(0, len(images)))
            check_finite(losses, gradient, turn * plan.steps + step, protected)
            rate = 0.5 * (torch.cos(math.pi * loss.times / 999) + 1) if config.modulate else torch.ones(len(images))
            moved = protected + plan.step_size * rate.view(-1, 1, 1, 1) * gradient.sign()
            protected = project(moved, images, plan.budget)
            in_round(context, turn, config.rounds).progress(step, plan.steps, {"loss": float(losses.mean())})
        return protected

    return quantise(alternate(images, config, context, generators, loss, climb=climb), images, config.ball)


class _Erasing:
    """Makes the objective of a surrogate, and remembers the last diffusion time of each photo."""

    def __init__(self, config: Config, count: int) -> None:
        self.config, self.times = config, torch.zeros(count)

    def __call__(self, surrogate: Surrogate) -> Objective:
        backbone, config = surrogate.backbone, self.config
        embedding, token, words = embedded(backbone, surrogate.prompt), *_places(surrogate)

        def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
            latents = backbone.encode(images, generators)
            times = randint(len(backbone.alphas_cumprod), generators).to(latents.device)
            noisy, target = backbone.noised(latents, randn(latents, generators), times)
            self.times[rows] = times.cpu().float()
            with recorded(backbone.unet, max(1, latents.shape[-1] // 4)) as maps:
                guess = backbone.unet(noisy, times, embedding.expand(len(images), -1, -1)).sample
            error: Tensor = (guess - target).pow(2).mean((1, 2, 3))
            return error + config.attention_weight * self._erased([each[..., words] for each in maps], token, error)

        return loss

    def _erased(self, maps: Sequence[Tensor], token: int, like: Tensor) -> Tensor:
        """``E`` of each photo, from the attention to the prompt's words, the identifier at ``token`` of them."""
        if not maps:
            return torch.zeros_like(like)
        attention = torch.stack(list(maps)).mean(0)
        if self.config.variant == "released":
            attention = attention.mean(0, keepdim=True)
        weights = (self.config.sharpness * attention).softmax(-1)
        share = weights[..., token].pow(2).sum(1) / weights.pow(2).sum((1, 2))
        return (1 - share).pow(2).expand(len(like))


def _places(surrogate: Surrogate) -> tuple[int, slice]:
    """Where the prompt's words stand among all tokens, and where the identifier stands among those words."""
    tokenizer, subject = surrogate.backbone.tokenizer, surrogate.context.subject
    before = surrogate.prompt.split(subject.identifier)[0]
    # Both counts have the start and the end of the text in them.
    return len(tokenizer(before.strip()).input_ids) - 2, slice(1, len(tokenizer(surrogate.prompt).input_ids) - 1)
