"""Fine-tuning steps shared by the trainers and by the protections that train a surrogate.

Latents are encoded once: the encoder gives a posterior for each picture, and each step draws from it. The
optimizer lives as long as its :class:`FineTune`, so that a surrogate trained in several turns keeps its momentum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from redcloak.backbone import Backbone, freeze
from redcloak.memory import Aside, at_once, loss_scale, must_park
from redcloak.training.adam8bit import Adam8bit
from redcloak.training.vocabulary import new_words, rows

OptimizerName = Literal["adamw", "adam8bit"]
KINDS: dict[OptimizerName, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "adam8bit": Adam8bit,
}


@dataclass(frozen=True)
class Latents:
    """The posteriors of some pictures, from one pass of the encoder; ``draw`` samples scaled latents."""

    mean: Tensor
    std: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, backbone: Backbone, images: Tensor, *, chunk: int | None = None) -> Latents:
        """Encode images ``(N, 3, H, W)`` in [0, 1], ``chunk`` at a time, by default fewer of large ones."""
        chunk = chunk or at_once(*images.shape[-2:])
        scale = float(backbone.vae.config.scaling_factor)
        means, spreads = zip(*(backbone.posterior(part) for part in torch.split(images, chunk)), strict=True)
        mean, std = torch.cat(means) * scale, torch.cat([(0.5 * spread).exp() for spread in spreads]) * scale
        return cls(mean, std if backbone.latent == "sample" else torch.zeros_like(std))

    def draw(self, count: int, generator: Generator) -> Tensor:
        """``count`` latents: pictures in a random order without repeats as far as they last, each sampled."""
        return self.take(self.order(count, generator), generator)

    def order(self, count: int, generator: Generator) -> Tensor:
        """The indices of ``count`` pictures in a random order without repeats as far as they last."""
        total = len(self.mean)
        return torch.cat([torch.randperm(total, generator=generator) for _ in range(-(-count // total))])[:count]

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


def draw(
    backbone: Backbone, latents: Tensor, prior: Prior | None, generator: Generator, classes: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """What a step draws: class latents below the instance latents ``(batch, C, h, w)``, and times and noise for all."""
    if prior:
        known = prior.latents
        beside = known.draw(len(latents), generator) if classes is None else known.take(classes, generator)
        latents = torch.cat([latents, beside])
    times = torch.randint(len(backbone.alphas_cumprod), (len(latents),), generator=generator)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    return latents, times.to(latents.device), noise


class FineTune:
    """DreamBooth's loss on a backbone whose trainable parameters were lent, one optimizer step at a time.

        L = E |eps_theta(z_t, t, c_instance) - eps|^2  +  w E |eps_theta(z'_t, t, c_class) - eps|^2

    By default the UNet trains, and the text encoder where asked; ``parameters`` names others. Words that were added to
    the backbone and are not among them train too, at ``word_lr``. A prompt whose embedding cannot change is embedded
    once for all.

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
        parameters: Sequence[nn.Parameter] | None = None,
        word_lr: float | None = None,
        optimizer: OptimizerName = "adamw",
    ) -> None:
        self.backbone, self.prior, self.batch, self.clip, self.prompt = backbone, prior, batch, clip, prompt
        chosen = backbone.trainable(text_encoder=text_encoder) if parameters is None else parameters
        self.weights, ours = list(chosen), {id(parameter) for parameter in chosen}
        added = rows(backbone)
        self.words = [row for row in added if id(row) not in ours]
        self.parameters = [*self.weights, *self.words]
        self.rates, self.kind = (lr, lr if word_lr is None else word_lr), optimizer
        self.optimizer = self._optimizer()
        learning = ours - {id(row) for row in added}
        self.speaking = any(id(parameter) in learning for parameter in backbone.text_encoder.parameters())
        self.known: dict[str, Tensor] = {}

    def _optimizer(self) -> torch.optim.Optimizer:
        pairs = zip((self.weights, self.words), self.rates, strict=True)
        groups = [{"params": part, "lr": lr} for part, lr in pairs if part]
        return KINDS[self.kind](groups, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)

    def rest(self) -> Callable[[], None]:
        """Lay the optimizer's moments aside, where memory is short; what is given brings them back."""
        slots = [(slot, name) for slot in self.optimizer.state.values() for name in slot if name != "step"]
        moments = [slot[name] for slot, name in slots]
        if not must_park(moments, self.backbone.memory):
            return lambda: None
        aside, shapes = Aside(moments, "low"), [moment.shape for moment in moments]
        for slot, name in slots:
            slot[name] = slot[name].new_empty(0)

        def wake() -> None:
            for (slot, name), shape in zip(slots, shapes, strict=True):
                slot[name] = slot[name].new_empty(shape)
            aside.restore([slot[name] for slot, name in slots])

        return wake

    @contextmanager
    def idle(self) -> Iterator[None]:
        """:meth:`rest` for the length of the block."""
        wake = self.rest()
        try:
            yield
        finally:
            wake()

    def forget(self) -> None:
        """Start the optimizer anew, as peers' code does between the turns of a surrogate."""
        self.optimizer = self._optimizer()

    def step(
        self,
        latents: Tensor,
        generator: Generator,
        classes: Tensor | None = None,
        prompts: Sequence[str] | None = None,
        class_prompts: Sequence[str] | None = None,
    ) -> float:
        """One optimizer step on instance latents ``(batch, C, h, w)``; returns the loss before it.

        ``classes``: which class pictures go along; by default random ones. ``prompts``: those of the instance pictures,
        ``class_prompts``: those of the class pictures, where there are any.
        """
        words = [*(prompts or [self.prompt] * self.batch)]
        words += (class_prompts or [self.prior.prompt] * self.batch) if self.prior else []
        latents, times, noise = draw(self.backbone, latents, self.prior, generator, classes)
        noisy, target = self.backbone.noised(latents, noise, times)
        errors = (self.backbone.unet(noisy, times, self._embed(words)).sample - target).pow(2).mean((1, 2, 3))
        loss = errors[: self.batch].mean()
        if self.prior:
            loss = loss + self.prior.weight * errors[self.batch :].mean()
        self._descend(loss)
        return float(loss.detach())

    def _embed(self, prompts: Sequence[str]) -> Tensor:
        """The prompt of each row; each goes through the text encoder once, and where that stays as it is, once ever."""
        told = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.known]
        lasting = [prompt for prompt in told if not self.speaking and not new_words(self.backbone, prompt)]
        if lasting:
            with torch.no_grad():
                self.known |= self._table(lasting)
        table = self.known | self._table([prompt for prompt in told if prompt not in self.known])
        return torch.cat([table[prompt].expand(len(list(run)), -1, -1) for prompt, run in groupby(prompts)])

    def _table(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return dict(zip(prompts, torch.split(self.backbone.embed(prompts), 1), strict=True)) if prompts else {}

    def _descend(self, loss: Tensor) -> None:
        scale = loss_scale(self.backbone.dtype)
        gradients = list(torch.autograd.grad(loss * scale, self.parameters, allow_unused=True))[::-1]
        for parameter in self.parameters:
            gradient = gradients.pop()  # one at a time, so that those of fp16 are not all held twice
            if gradient is not None and gradient.stride() != parameter.stride():
                # fused AdamW reads memory in its own order: a gradient of another layout would be stepped astray
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient if gradient is None or scale == 1 else gradient / scale
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if scale == 1 or norm.isfinite():  # an overflow of fp16 costs the step, not the model
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def train(self, latents: Latents, steps: int, generator: Generator) -> float:
        """``steps`` steps on random pictures; returns the mean loss."""
        with trainable(self.parameters):
            losses = [self.step(latents.draw(self.batch, generator), generator) for _ in range(steps)]
        return sum(losses) / max(1, len(losses))

    def state(self, stream: Generator) -> dict[str, Tensor]:
        """Everything that a resumed run needs, as flat tensors: the live ones, to be read at once."""
        found = {f"parameter.{index}": value.detach() for index, value in enumerate(self.parameters)}
        slots = self.optimizer.state_dict()["state"]
        found |= {f"optimizer.{index}.{name}": value for index, slot in slots.items() for name, value in slot.items()}
        return found | {"stream": stream.get_state()}

    def load(self, state: Mapping[str, Tensor], stream: Generator) -> None:
        """Take up what :meth:`state` gave."""
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters):
                parameter.copy_(state[f"parameter.{index}"])
        stream.set_state(state["stream"])
        optimizer = self.optimizer.state_dict()
        for name, value in state.items():
            if name.startswith("optimizer."):
                _, number, slot = name.split(".")
                optimizer["state"].setdefault(int(number), {})[slot] = value
        self.optimizer.load_state_dict(optimizer)


@contextmanager
def trainable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Take gradients of these parameters inside the block, and of none outside."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        freeze(parameters)
