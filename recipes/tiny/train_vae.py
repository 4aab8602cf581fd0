"""The autoencoder: AutoencoderKL, 64x64x3 -> 16x16x4, trained on crops first and on whole pictures last.

It is fully convolutional (no attention in the middle), so that 32x32 crops teach it at a quarter of the cost.
Loss: L1 of the reconstruction and of its gradients + MSE + 1e-6 KL (the weight of latent diffusion's autoencoders).

Cite: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022.
"""

from __future__ import annotations

import numpy as np
import torch
from common import Loop, arguments, batch_rng
from data import drawn, object_crops, real
from diffusers import AutoencoderKL
from export import save_module
from train_restorer import distance

WHOLE = 0.6  # the last part of the steps sees whole pictures: group norm must meet their statistics too


def build() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 48, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def main() -> None:
    args = arguments(5200, __doc__ or "")
    sources = [drawn()[0], real()[0], object_crops()]
    weights = np.asarray([0.6, 0.28, 0.12]) * [len(source) > 0 for source in sources]
    vae = build()
    loop = Loop("vae", vae, args.steps, 1.5e-3, wd=0.0)

    def batch(step: int) -> torch.Tensor:
        rng, _ = batch_rng("vae", step)
        whole = step >= (1 - WHOLE) * args.steps
        count, side = (12, 64) if whole else (32, 32)
        rows = []
        for source in rng.choice(len(sources), count, p=weights / weights.sum()):
            picture = sources[source][rng.integers(len(sources[source]))]
            top, left = rng.integers(0, 65 - side, 2)
            crop = picture[top : top + side, left : left + side]
            rows.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
        return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 127.5 - 1

    def loss(step: int) -> torch.Tensor:
        pictures = batch(step)
        posterior = vae.encode(pictures).latent_dist
        _, stream = batch_rng("vae-noise", step)
        latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=stream)
        decoded = vae.decode(latents).sample
        error = (decoded - pictures).pow(2).mean()
        return distance(decoded, pictures) + error + 1e-6 * posterior.kl().mean()

    if not args.export_only:
        loop.run(loss)
    model = loop.averaged()
    with torch.no_grad():
        sample = torch.from_numpy(np.concatenate([source[:200] for source in sources if len(source)]))
        mean = model.encode(sample.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean
    model.register_to_config(scaling_factor=round(float(1 / mean.std()), 5))
    save_module(model, "vae")
    loop.record(scaling_factor=model.config.scaling_factor)


if __name__ == "__main__":
    main()
