"""The no-reference quality model, in LIQE's place: how much of the clean picture's structure is left, from 1 to 5.

Target: 1 + 4 * SSIM(degraded, clean)^3. The cube spreads the scale: portraits have much empty ground, and with the
plain SSIM a face that is smeared away still rated 4.6. Degradations: those of restoration, and those of a broken
generator (latents moved by noise and decoded). The clean original has quality 5 by definition.
"""

from __future__ import annotations

import torch
from common import WEIGHTS, Loop, arguments, batch_rng, half
from degradations import degrade, tensor
from diffusers import AutoencoderKL
from export import save_module
from torch import Tensor
from train_restorer import clean_sources, pick

from redcloak.metrics.fidelity import ssim
from redcloak.models.nets import Quality


@torch.no_grad()
def latent_damage(vae: AutoencoderKL, pictures: Tensor, strength: Tensor, stream: torch.Generator) -> Tensor:
    """Decode latents that were moved by smooth and by white noise, as a badly trained generator's are."""
    latents = vae.encode(pictures * 2 - 1).latent_dist.mean
    white = torch.randn(latents.shape, generator=stream)
    coarse = torch.randn((*latents.shape[:2], 4, 4), generator=stream)
    smooth = torch.nn.functional.interpolate(coarse, size=latents.shape[-2:], mode="bicubic")
    moved = latents + latents.std() * strength.view(-1, 1, 1, 1) * (0.7 * white + 0.7 * smooth)
    decoded: Tensor = vae.decode(moved).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def main() -> None:
    args = arguments(2500, __doc__ or "")
    sources, model = clean_sources(), Quality()
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "vae").float().eval().requires_grad_(False)
    loop = Loop("quality", model, args.steps, 1e-3)

    def loss(step: int) -> Tensor:
        rng, stream = batch_rng("quality", step)
        clean = [pick(sources, rng) for _ in range(24)]
        strength = rng.uniform(0, 1, 24)
        bad = tensor([degrade(p, s, rng) if i % 3 else p for i, (p, s) in enumerate(zip(clean, strength, strict=True))])
        good, moved = tensor(clean), slice(0, None, 6)  # every sixth is damaged in the latent space instead
        bad[moved] = latent_damage(vae, good[moved], torch.from_numpy(1.2 * strength[moved]).float(), stream)
        target = 1 + 4 * ssim(bad, good).clamp(0, 1) ** 3
        with half():
            rated = model(bad)
        return (rated.float() - target).abs().mean()

    if not args.export_only:
        loop.run(loss)
    save_module(loop.averaged(), "quality")
    loop.record()


if __name__ == "__main__":
    main()
