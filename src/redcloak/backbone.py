"""One frozen latent-diffusion model behind ``encode``, ``decode``, ``embed``, ``denoising_loss`` and ``sample``.

Protections and trainers never touch a scheduler, a scaling factor or the [-1, 1] range: those live here and nowhere
else. Images are ``(N, 3, H, W)`` in [0, 1], latents are scaled and have about unit variance.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from redcloak.api import CPU, Machine, Policy
from redcloak.memory import TYPES, Aside, placed
from redcloak.parts import check_model
from redcloak.rng import randint, randn
from redcloak.tiles import tiled
from redcloak.training.vocabulary import restored, rows

WHOLE, TILE = 768, 512  # the encoder takes photos up to 768 x 768 whole, larger ones in tiles of 512


@dataclass
class Backbone:
    """A latent-diffusion model in its five parts, as a diffusers folder stores them.

    ``latent`` chooses what the encoder gives: a ``sample`` of the posterior (what DreamBooth trains on) or its
    ``mean``; for a protection that is a choice of threat model.
    """

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    device: torch.device
    latent: Literal["sample", "mean"] = "sample"
    dtype: torch.dtype = torch.float32
    memory: Policy = "auto"

    @classmethod
    def load(cls, folder: Path, machine: Machine = CPU) -> Backbone:
        """Load a local diffusers folder: safetensors only, every parameter frozen, in the machine's precision.

        Raises:
            UserError: a part is missing, or its weights are stored as a pickle.
        """
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        check_model(folder)
        place, dtype = torch.device(machine.device), TYPES[machine.precision]
        kinds = ((AutoencoderKL, "vae"), (UNet2DConditionModel, "unet"), (CLIPTextModel, "text_encoder"))
        with quietly():
            vae, unet, text_encoder = (
                placed(kind.from_pretrained(folder / part, use_safetensors=True, torch_dtype=dtype), machine)
                for kind, part in kinds  # read in the precision that is kept: a cast would hold both
            )
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        scheduler = DDIMScheduler.from_pretrained(
            folder / "scheduler", clip_sample=False, set_alpha_to_one=False, steps_offset=1
        )
        return cls(vae, unet, text_encoder, tokenizer, scheduler, place, dtype=dtype, memory=machine.memory)

    def __post_init__(self) -> None:
        if self.memory == "low":
            self.unet.enable_gradient_checkpointing()
            self.vae.enable_gradient_checkpointing()

    @property
    def alphas_cumprod(self) -> Tensor:
        """The cumulative signal power of the forward process, ``(T,)`` on the backbone's device."""
        table: Tensor = self.scheduler.alphas_cumprod
        return table.to(self.device)

    def encode(self, images: Tensor, generators: Sequence[Generator] | None = None) -> Tensor:
        """Images -> scaled latents, differentiable; without generators, or with ``latent="mean"``, the mean."""
        mean, logvar = self.posterior(images)
        latents = mean
        if generators is not None and self.latent == "sample":
            latents = mean + (0.5 * logvar).exp() * randn(mean, generators)
        return latents * float(self.vae.config.scaling_factor)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the encoder's posterior, unscaled, differentiable; of large images in tiles."""
        pictures = images.to(self.device, self.dtype) * 2 - 1
        if pictures.shape[-1] * pictures.shape[-2] <= WHOLE**2:
            return self._posterior(pictures)
        mean, logvar = tiled(self._posterior, pictures, TILE, self.factor)
        return mean, logvar

    def _posterior(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        found = self.vae.encode(pictures).latent_dist
        return found.mean.float(), found.logvar.float()

    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        """Scaled latents -> images in [0, 1]; without ``clamp`` they may leave it, and keep their gradient there."""
        found = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.dtype)).sample
        pictures: Tensor = (found.float() + 1) / 2
        return pictures.clamp(0, 1) if clamp else pictures

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> the text encoder's last hidden states ``(N, L, D)``, padded as Stable Diffusion pads."""
        tokens = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        states: Tensor = self.text_encoder(tokens.to(self.device)).last_hidden_state
        return states

    def noised(self, latents: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Forward process: ``z_t`` and what the UNet should predict from it (the noise, or the velocity)."""
        signal = self.alphas_cumprod[times].sqrt().view(-1, 1, 1, 1)
        spread = (1 - self.alphas_cumprod[times]).sqrt().view(-1, 1, 1, 1)
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        return signal * latents + spread * noise, signal * noise - spread * latents if velocity else noise

    def predicted_noise(self, noisy: Tensor, times: Tensor, embeddings: Tensor) -> Tensor:
        """The noise that the UNet sees in ``z_t``, whether it predicts the noise or the velocity."""
        guess: Tensor = self.unet(noisy, times, embeddings).sample
        if self.scheduler.config.prediction_type != "v_prediction":
            return guess
        signal = self.alphas_cumprod[times].sqrt().view(-1, 1, 1, 1)
        spread = (1 - self.alphas_cumprod[times]).sqrt().view(-1, 1, 1, 1)
        return signal * guess + spread * noisy

    def denoising_loss(
        self, latents: Tensor, embeddings: Tensor, generators: Sequence[Generator], times: Tensor | None = None
    ) -> Tensor:
        """One Monte-Carlo draw of the training loss for each latent: ``|eps_theta(z_t, t, c) - eps|^2``, ``(N,)``.

        Row ``i`` draws its step, unless ``times`` gives it, and its noise from ``generators[i]``.
        """
        if times is None:
            times = randint(len(self.alphas_cumprod), generators)
        times = times.to(self.device)
        noisy, target = self.noised(latents, randn(latents, generators), times)
        error: Tensor = self.unet(noisy, times, embeddings).sample - target
        return error.pow(2).mean((1, 2, 3))

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        generators: Sequence[Generator],
        *,
        steps: int = 25,
        guidance: float = 7.5,
        negative: str = "",
        size: int | None = None,
    ) -> Tensor:
        """DDIM sampling with classifier-free guidance; image ``i`` starts from the noise of ``generators[i]``.

        Cite: Song et al., "Denoising Diffusion Implicit Models", ICLR 2021 (eta = 0).
        """
        side = (size // self.factor) if size else int(self.unet.config.sample_size)
        shape = (len(prompts), int(self.unet.config.in_channels), side, side)
        latents = randn(torch.empty(shape, device=self.device), generators)
        away, towards = self.embed([negative] * len(prompts)), self.embed(prompts)
        return self.decode(self.denoise(latents, towards, away, self.sampler(steps), guidance))

    def sampler(self, steps: int) -> Any:
        """A DDIM scheduler on this backbone's schedule, set to ``steps``."""
        from diffusers import DDIMScheduler

        sampler = DDIMScheduler.from_config(self.scheduler.config)
        sampler.set_timesteps(steps, device=self.device)
        return sampler

    def denoise(
        self, latents: Tensor, towards: Tensor, away: Tensor, sampler: Any, guidance: float, last: int | None = None
    ) -> Tensor:
        """Noisy latents -> clean ones by DDIM with classifier-free guidance between two embeddings; differentiable.

        ``last`` runs only that many of the sampler's last steps, on latents that were noised to the first of them. With
        a guidance of 1 nothing is led away from, and the UNet sees ``towards`` alone.
        """
        led = guidance != 1
        condition = torch.cat([away, towards]) if led else towards
        times = sampler.timesteps if last is None else sampler.timesteps[-last:]
        for time in times:
            guess = self.unet(torch.cat([latents, latents]) if led else latents, time, condition).sample
            if led:
                without, wanted = guess.chunk(2)
                guess = without + guidance * (wanted - without)
            latents = sampler.step(guess, time, latents).prev_sample
        return latents

    def edit(
        self,
        images: Tensor,
        prompt: str,
        generators: Sequence[Generator],
        *,
        steps: int = 25,
        strength: float = 0.5,
        guidance: float = 7.5,
        clamp: bool = True,
    ) -> Tensor:
        """img2img: noise the images' latents to ``strength`` of the way and denoise them under ``prompt``.

        Differentiable with respect to the images, everywhere with ``clamp=False``. Random: the noise, from
        ``generators[i]``.

        Cite: Meng et al., "SDEdit: Guided Image Synthesis and Editing", ICLR 2022.
        """
        latents, sampler, last = self.encode(images), self.sampler(steps), max(1, round(strength * steps))
        noisy, _ = self.noised(latents, randn(latents, generators), sampler.timesteps[-last].expand(len(images)))
        with torch.no_grad():
            away, towards = self.embed([""] * len(images)), self.embed([prompt] * len(images))
        return self.decode(self.denoise(noisy, towards, away, sampler, guidance, last), clamp=clamp)

    @property
    def factor(self) -> int:
        """How many pixels of the image one latent covers, along a side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def trainable(self, *, text_encoder: bool = True) -> list[nn.Parameter]:
        """The parameters that fine-tuning changes: the UNet's, and the text encoder's where asked; not new words."""
        modules, new = [self.unet, *([self.text_encoder] if text_encoder else [])], {id(row) for row in rows(self)}
        return [parameter for module in modules for parameter in module.parameters() if id(parameter) not in new]

    @contextmanager
    def borrowed(
        self, parameters: Sequence[nn.Parameter] | None = None, *, text_encoder: bool = True
    ) -> Iterator[list[nn.Parameter]]:
        """Lend the trainable parameters, or those named; on leaving, their values are put back in place and frozen.

        Only the parameters that train are copied, and no module is: a surrogate is this very model, for a while.
        They are float32 meanwhile: half precision would swallow the steps of a small learning rate. Words that were
        added meanwhile (:func:`redcloak.training.vocabulary.add_words`) are taken away.
        """
        parameters = self.trainable(text_encoder=text_encoder) if parameters is None else list(parameters)
        kept = Aside(parameters, self.memory)
        _to(parameters, torch.float32)
        try:
            with restored(self):
                yield parameters
        finally:
            freeze(parameters)
            _to(parameters, self.dtype)
            kept.restore(parameters)

    def save(self, folder: Path) -> None:
        """Write a folder that plain diffusers loads: fp16 safetensors and every part's configuration."""
        for name in ("vae", "unet", "text_encoder"):
            _save_half(getattr(self, name), folder / name)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.scheduler.save_pretrained(folder / "scheduler")
        (folder / "model_index.json").write_text(_INDEX, encoding="utf-8")


def _to(parameters: Sequence[nn.Parameter], dtype: torch.dtype) -> None:
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)


def freeze(parameters: Sequence[nn.Parameter]) -> None:
    """Take no gradient, and drop those that were taken."""
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None


@contextmanager
def quietly() -> Iterator[None]:
    """Load weights without the libraries' progress bars: stderr is for our own lines."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _save_half(module: Any, folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    transformer = not hasattr(module, "save_config")
    module.config.save_pretrained(folder) if transformer else module.save_config(folder)
    _forget_origin(folder / "config.json")
    name = "model.safetensors" if transformer else "diffusion_pytorch_model.safetensors"
    half = {key: value.detach().half().contiguous().cpu() for key, value in module.state_dict().items()}
    save_file(half, folder / name, {"format": "pt"})


def _forget_origin(path: Path) -> None:
    """Strike out where a part was read from: it is a path of this machine, and no part of the model."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values.pop("_name_or_path", None)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


_INDEX = """{
 "_class_name": "StableDiffusionPipeline",
 "feature_extractor": [null, null],
 "image_encoder": [null, null],
 "requires_safety_checker": false,
 "safety_checker": [null, null],
 "scheduler": ["diffusers", "DDIMScheduler"],
 "text_encoder": ["transformers", "CLIPTextModel"],
 "tokenizer": ["transformers", "CLIPTokenizer"],
 "unet": ["diffusers", "UNet2DConditionModel"],
 "vae": ["diffusers", "AutoencoderKL"]
}
"""
