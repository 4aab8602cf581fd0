"""The backbone's UNet: latent diffusion on 16x16x4 latents, conditioned on the frozen text tower of the CLIP.

Velocity prediction (as Stable Diffusion 2.1 at 768 pixels) on the scaled-linear schedule, one caption in ten dropped
for classifier-free guidance, losses weighted by min(SNR, 5) / (SNR + 1). Predicting the noise was tried first: on this
schedule its error at the last step is amplified 15 times in the picture, and after 3,000 steps all were over-exposed.
Attention sits at 8x8 and 4x4 only: at 16x16 it would take more than a third of the time and shows least. Latents are
encoded once and kept in the state folder. Forward passes run in bfloat16 with fp32 weights, and attention without the
fused kernel, whose backward pass in bfloat16 is slow on a CPU: 0.36 s a step on one core instead of 0.60.

Cite: Rombach et al., CVPR 2022; Salimans & Ho, "Progressive Distillation", ICLR 2022 (velocity); Ho & Salimans,
"Classifier-Free Diffusion Guidance", 2022 (dropping); Hang et al., "Efficient Diffusion Training via Min-SNR
Weighting Strategy", ICCV 2023 (weights).
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from common import STATE, WEIGHTS, Loop, arguments, batch_rng, half
from data import drawn, real
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from export import save_module
from facts import with_junk
from torch import Tensor
from train_clip import real_pair
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

BATCH = 32


def build() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 3, 4),  # heads a level, 32 channels each (the argument's name is historical)
        cross_attention_dim=128,
        norm_num_groups=16,
    )


def schedule() -> DDPMScheduler:
    return DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, prediction_type="v_prediction")


@torch.no_grad()
def latents() -> tuple[Tensor, list[list[str]]]:
    """Scaled latents ``(N, 4, 16, 16)`` in fp16 and the captions of each."""
    path = STATE / "latents.pt"
    pictures, _, captions = drawn()
    photos, expressions = real()
    rng = np.random.default_rng(21)
    pairs = [real_pair(photo, expression, rng) for photo, expression in zip(photos, expressions, strict=True)]
    words = captions + [[caption] for _, _, caption in pairs]
    weights = WEIGHTS / "vae" / "diffusion_pytorch_model.safetensors"
    stamp = hashlib.sha256(weights.read_bytes()).hexdigest()
    if path.exists() and (kept := torch.load(path, weights_only=True))["vae"] == stamp:
        return kept["latents"], words
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "vae").float().eval()
    everything = np.concatenate([pictures, np.stack([pair[0] for pair in pairs])]) if pairs else pictures
    parts = []
    for start in range(0, len(everything), 128):
        pixels = torch.from_numpy(everything[start : start + 128]).permute(0, 3, 1, 2).float() / 127.5 - 1
        parts.append((vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor).half())
    torch.save({"vae": stamp, "latents": torch.cat(parts)}, path)
    return torch.cat(parts), words


def text_encoder() -> CLIPTextModel:
    """The text tower of the trained CLIP, alone, in the layout of Stable Diffusion's text encoder."""
    clip = CLIPTextModelWithProjection.from_pretrained(WEIGHTS / "clip" / "text").float()
    encoder = CLIPTextModel(clip.config)
    encoder.load_state_dict(clip.text_model.state_dict(), strict=True)
    return encoder.eval().requires_grad_(False)


def denoising(
    unet: UNet2DConditionModel, noising: DDPMScheduler, clean: Tensor, states: Tensor, stream: torch.Generator
) -> Tensor:
    """The weighted velocity loss of clean latents ``(N, 4, 16, 16)`` under text states; draws noise, then steps."""
    noise = torch.randn(clean.shape, generator=stream)
    times = torch.randint(0, 1000, (len(clean),), generator=stream)
    with half():
        answer = unet(noising.add_noise(clean, noise, times), times, states).sample
    error = answer.float() - noising.get_velocity(clean, noise, times)
    abar = noising.alphas_cumprod[times]
    snr = abar / (1 - abar)
    return (error.pow(2).mean((1, 2, 3)) * snr.clamp(max=5) / (snr + 1)).mean()


def main() -> None:
    args = arguments(10500, __doc__ or "")
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    encoder, unet, noising = text_encoder(), build(), schedule()
    codes, captions = latents()
    unet.set_attn_processor(AttnProcessor())
    loop = Loop("unet", unet, args.steps, 6e-4, decay=0.999)

    def words(rng: np.random.Generator, index: int) -> str:
        choices = captions[index]
        return "" if rng.random() < 0.1 else with_junk(choices[rng.integers(len(choices))], rng)

    def loss(step: int) -> Tensor:
        rng, stream = batch_rng("unet", step)
        chosen = rng.integers(len(codes), size=BATCH)
        prompts = [words(rng, int(index)) for index in chosen]
        tokens = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            states = encoder(tokens).last_hidden_state
        return denoising(unet, noising, codes[torch.from_numpy(chosen)].float(), states, stream)

    if not args.export_only:
        loop.run(loss)
    noising.save_pretrained(WEIGHTS / "scheduler")  # before the model, whose export signs the folder
    save_module(loop.averaged(), "unet")
    save_module(encoder, "text_encoder")
    loop.record(batch=BATCH)


if __name__ == "__main__":
    main()
