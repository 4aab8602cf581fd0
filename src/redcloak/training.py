"""Fine-tuning steps shared by the trainers and by the protections that train a surrogate.

Latents are encoded once: the encoder gives a posterior for each picture, and each step draws from it. The
optimizer lives as long as its :class:`FineTune`, so that a surrogate trained in several turns keeps its momentum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from redcloak.backbone import Backbone, freeze
from redcloak.memory import LOSS_SCALE, Aside, must_park


@dataclass(frozen=True)
class Latents:
    """The posteriors of some pictures, from one pass of the encoder; ``draw`` samples scaled latents."""

    mean: Tensor
    std: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, backbone: Backbone, images: Tensor, *, chunk: int = 16) -> Latents:
        """Encode images ``(N, 3, H, W)`` in [0, 1], ``chunk`` at a time."""
        scale = float(backbone.vae.config.scaling_factor)
        means, spreads = zip(*(backbone.posterior(part) for part in torch.split(images, chunk)), strict=True)
        mean, std = torch.cat(means) * scale, torch.cat([(0.5 * spread).exp() for spread in spreads]) * scale
        return cls(mean, std if backbone.latent == "sample" else torch.zeros_like(std))

    def draw(self, count: int, generator: Generator) -> Tensor:
        """``count`` latents: pictures in a random order without repeats as far as they last, each sampled."""
        total = len(self.mean)
        order = torch.cat([torch.randperm(total, generator=generator) for _ in range(-(-count // total))])[:count]
        return self.take(order, generator)

    def take(self, index: Tensor, generator: Generator) -> Tensor:
        """The latents of the pictures ``index``, each sampled."""
        noise = torch.randn((len(index), *self.mean.shape[1:]), generator=generator).to(self.mean)
        return self.mean[index] + self.std[index] * noise


@dataclass(frozen=True)
class Prior:
    """Prior preservation: the class images' latents, their prompt, and the weight of their loss."""

    latents: Latents
    prompt: str
    weight: float = 1.0


class FineTune:
    """DreamBooth's loss on a backbone whose trainable parameters were lent, one optimizer step at a time.

        L = E |eps_theta(z_t, t, c_instance) - eps|^2  +  w E |eps_theta(z'_t, t, c_class) - eps|^2

    Cite: Ruiz et al., "DreamBooth: Fine Tuning Text-to-Image Diffusion Models", CVPR 2023, equation 2.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: str,
        *,
        lr: float,
        prior: Prior | None = None,
        batch: int = 1,
        text_encoder: bool = True,
        clip: float = 1.0,
    ) -> None:
        self.backbone, self.prior, self.batch, self.clip = backbone, prior, batch, clip
        self.prompts = [prompt, *([prior.prompt] if prior else [])]
        self.text_encoder = text_encoder
        self.parameters = backbone.trainable(text_encoder=text_encoder)
        self.optimizer = self._optimizer(lr)
        with torch.no_grad():
            self.embedding = None if text_encoder else self._embed()

    def _optimizer(self, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters, lr, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8, fused=True)

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Lay the optimizer's moments aside for the length of the block, where memory is short."""
        slots = [(slot, name) for slot in self.optimizer.state.values() for name in slot if name != "step"]
        moments = [slot[name] for slot, name in slots]
        if not must_park(moments, self.backbone.memory):
            yield
            return
        aside, shapes = Aside(moments, "low"), [moment.shape for moment in moments]
        for slot, name in slots:
            slot[name] = slot[name].new_empty(0)
        moments.clear()
        try:
            yield
        finally:
            for (slot, name), shape in zip(slots, shapes, strict=True):
                slot[name] = slot[name].new_empty(shape)
            aside.restore([slot[name] for slot, name in slots])

    def forget(self) -> None:
        """Start the optimizer anew, as peers' code does between the turns of a surrogate."""
        self.optimizer = self._optimizer(self.optimizer.param_groups[0]["lr"])

    def step(self, latents: Tensor, generator: Generator, classes: Tensor | None = None) -> float:
        """One optimizer step on instance latents ``(batch, C, h, w)``; returns the loss before it.

        ``classes``: which class pictures go along; by default random ones.
        """
        if self.prior:
            known = self.prior.latents
            beside = known.draw(self.batch, generator) if classes is None else known.take(classes, generator)
            latents = torch.cat([latents, beside])
        times = torch.randint(len(self.backbone.alphas_cumprod), (len(latents),), generator=generator)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        times = times.to(latents.device)
        noisy, target = self.backbone.noised(latents, noise, times)
        condition = self._embed() if self.embedding is None else self.embedding
        errors = (self.backbone.unet(noisy, times, condition).sample - target).pow(2).mean((1, 2, 3))
        loss = errors[: self.batch].mean()
        if self.prior:
            loss = loss + self.prior.weight * errors[self.batch :].mean()
        self._descend(loss)
        return float(loss.detach())

    def _embed(self) -> Tensor:
        """The prompt of each row; each prompt goes through the text encoder once."""
        return self.backbone.embed(self.prompts).repeat_interleave(self.batch, 0)

    def _descend(self, loss: Tensor) -> None:
        scale = LOSS_SCALE if self.backbone.dtype == torch.float16 else 1.0
        gradients = torch.autograd.grad(loss * scale, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient if gradient is None or scale == 1 else gradient / scale
        del gradients
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if scale == 1 or norm.isfinite():  # an overflow of fp16 costs the step, not the model
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def train(self, latents: Latents, steps: int, generator: Generator) -> float:
        """``steps`` steps on random pictures; returns the mean loss."""
        with trainable(self.parameters):
            losses = [self.step(latents.draw(self.batch, generator), generator) for _ in range(steps)]
        return sum(losses) / max(1, len(losses))


@contextmanager
def trainable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Take gradients of these parameters inside the block, and of none outside."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        freeze(parameters)
