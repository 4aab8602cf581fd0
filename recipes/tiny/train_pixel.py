"""The pixel-space diffusion model, in the place of the 256x256 unconditional ImageNet model of guided-diffusion.

Epsilon prediction in [-1, 1] on the linear schedule of DDPM, 64x64, no condition. Purification starts from small noise,
so half of the steps are drawn from the first 300.

Cite: Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020; Nie et al., "Diffusion Models for Adversarial
Purification", ICML 2022 (its use).
"""

from __future__ import annotations

import numpy as np
import torch
from common import WEIGHTS, Loop, arguments, batch_rng, half
from degradations import tensor
from diffusers import DDPMScheduler, UNet2DModel
from export import save_module
from torch import Tensor
from train_restorer import clean_sources, pick

BATCH = 12


def build() -> UNet2DModel:
    return UNet2DModel(
        sample_size=64,
        block_out_channels=(24, 40, 64, 80),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 3 + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * 3,
        attention_head_dim=16,
        norm_num_groups=8,
    )


def main() -> None:
    args = arguments(2500, __doc__ or "")
    sources, model = clean_sources(), build()
    noising = DDPMScheduler(1000, 0.0001, 0.02, "linear", clip_sample=True, prediction_type="epsilon")
    loop = Loop("pixel", model, args.steps, 6e-4, decay=0.9995)

    def loss(step: int) -> Tensor:
        rng, stream = batch_rng("pixel", step)
        clean = tensor([pick(sources, rng) for _ in range(BATCH)]) * 2 - 1
        late = np.where(rng.random(BATCH) < 0.5, rng.integers(0, 300, BATCH), rng.integers(0, 1000, BATCH))
        times = torch.from_numpy(late)
        noise = torch.randn(clean.shape, generator=stream)
        with half():
            answer = model(noising.add_noise(clean, noise, times), times).sample
        return (answer.float() - noise).pow(2).mean()

    if not args.export_only:
        loop.run(loss)
    noising.save_pretrained(WEIGHTS / "pixel")  # before the model, whose export signs the folder
    save_module(loop.averaged(), "pixel")
    loop.record(batch=BATCH)


if __name__ == "__main__":
    main()
