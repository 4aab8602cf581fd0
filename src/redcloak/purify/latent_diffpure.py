"""LatentDiffPure: diffuse the latents part of the way and denoise them under a prompt that asks for quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.backbone import Backbone
from redcloak.config import MethodConfig
from redcloak.padding import on_grid
from redcloak.rng import randn

METHOD = Method(
    title="LatentDiffPure",
    cite="Liu et al., arXiv 2406.18944, appendix: DiffPure in the latents of Stable Diffusion.",
    stochastic=True,
    needs=("backbone",),
    differentiable=True,
)
WORDS = {
    "paper": "a photo of {class_noun}, high quality, highres",
    "released": "a photo of a {class_noun}, clear, high resolution, high quality, noise-free",
}


class Config(MethodConfig):
    """How far to diffuse, and towards what."""

    start: int = Field(300, ge=0, le=999, description="diffusion step the latents are noised to; 0: the autoencoder")
    steps: int = Field(0, ge=0, le=999, description="denoising steps, evenly spaced below start; 0: every one")
    prompt: str | None = Field(None, description="default: the variant's; empty for none (LatentDiffPure-null)")
    guidance: float = Field(7.5, ge=1, le=30, description="classifier-free guidance scale")
    variant: Literal["paper", "released"] = Field("paper", description="whose prompt: the text's or the script's")


def latent_diffpure(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Encode, add noise up to step ``start``, denoise by DDPM's ancestral steps with guidance, decode.

        z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) n,    z_{s} ~ q(z_s | z_t, z_0 = f(z_t)),  s < t, down to 0

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Without a prompt there is nothing to guide towards, and half of
    the model's calls. Random: the posterior, n and each step's noise, from ``generators[i]``.

    Cite: Liu et al., arXiv 2406.18944; Nie et al., "Diffusion Models for Adversarial Purification", ICML 2022;
    Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020, equation 7. License: Apache-2.0.
    """
    backbone = context.suite.backbone
    words = WORDS[config.variant] if config.prompt is None else config.prompt
    prompt = words.replace("{class_noun}", context.subject.class_noun)

    def purified(padded: Tensor) -> Tensor:
        latents = backbone.encode(padded, generators)
        if config.start:
            times = schedule(config.start, config.steps)
            noisy, _ = backbone.noised(latents, randn(latents, generators), times[:1].expand(len(latents)))
            latents = ancestral(backbone, noisy, prompt, config.guidance, times, generators)
        return backbone.decode(latents).to(padded)

    return on_grid(purified, images, backbone.factor)


def schedule(start: int, steps: int) -> Tensor:
    """The diffusion steps to visit: ``start``, then ``steps - 1`` evenly spaced ones below it; 0: all of them."""
    return torch.linspace(start, 0, min(steps or start + 1, start + 1)).round().long()


def ancestral(
    backbone: Backbone, latents: Tensor, prompt: str, guidance: float, times: Tensor, generators: Sequence[Generator]
) -> Tensor:
    """DDPM's reverse steps over ``times``, with the posterior's own (small) variance and no noise in the last one."""
    with torch.no_grad():
        wanted = backbone.embed([prompt] * len(latents))
        away = backbone.embed([""] * len(latents))
    signal = torch.cat([backbone.alphas_cumprod[times.to(backbone.device)], torch.ones(1, device=backbone.device)])
    for place, time in enumerate(times.tolist()):
        now, then = signal[place], signal[place + 1]
        noise = _guided(backbone, latents, time, wanted, away, guidance if prompt else 1.0)
        clean = (latents - (1 - now).sqrt() * noise) / now.sqrt()
        kept = now / then  # alpha of this step, of the respaced process
        latents = (then.sqrt() * (1 - kept) * clean + kept.sqrt() * (1 - then) * latents) / (1 - now)
        if place + 1 < len(times):
            latents = latents + ((1 - then) / (1 - now) * (1 - kept)).sqrt() * randn(latents, generators)
    return latents


def _guided(backbone: Backbone, latents: Tensor, time: int, wanted: Tensor, away: Tensor, guidance: float) -> Tensor:
    if guidance == 1:
        return backbone.predicted_noise(latents, torch.full((len(latents),), time, device=latents.device), wanted)
    times = torch.full((2 * len(latents),), time, device=latents.device)
    pair = backbone.predicted_noise(torch.cat([latents, latents]), times, torch.cat([away, wanted]))
    without, towards = pair.chunk(2)
    return without + guidance * (towards - without)
