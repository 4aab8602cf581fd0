"""The LoRAs of several subjects in one batched pass: every layer of the model is run once for all of them.

    y = W x + B_s (A_s x)        for the rows of subject s

The weights W are the same for all and frozen, so their part is one product of a larger batch; the additions are batched
products with a leading dimension of subjects. Each subject draws from a stream of its own, its gradient is clipped on
its own, and AdamW works value by value: so each ends where it would have ended alone, to the rounding of floats.

Cite: Hu et al., "LoRA", ICLR 2022; Wen & Chaudhuri, "Batched Low-Rank Adaptation of Foundation Models", ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from redcloak.errors import UserError
from redcloak.personalize.lora import Config, first_factor, projections
from redcloak.training.finetuning import Latents, Prior, draw, trainable
from redcloak.training.fitting import instance_prompts, prior

if TYPE_CHECKING:
    from redcloak.api import Context
    from redcloak.backbone import Backbone

Factors = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Job:
    """One subject: instance images ``(N, 3, H, W)`` in [0, 1], its words and class images, and its stream."""

    images: Tensor
    context: Context
    generator: Generator


class Additions(nn.Module):
    """A linear layer with the low-rank additions of several subjects, whose rows of the batch stand together."""

    def __init__(self, old: nn.Linear, down: Tensor) -> None:
        super().__init__()
        self.old, down = old, down.to(old.weight.device)
        self.down = nn.Parameter(down, requires_grad=False)
        self.up = nn.Parameter(down.new_zeros(len(down), old.out_features, down.shape[1]), requires_grad=False)

    def forward(self, rows: Tensor) -> Tensor:
        """``(S * n, L, in)`` -> ``(S * n, L, out)``."""
        kept: Tensor = self.old(rows)
        grouped = rows.reshape(len(self.down), -1, rows.shape[-1]).to(self.down.dtype)
        added = grouped @ self.down.transpose(1, 2) @ self.up.transpose(1, 2)
        return kept + added.view(kept.shape).to(kept.dtype)


def together(jobs: Sequence[Job], config: Config) -> list[Factors]:
    """Train a LoRA of the UNet for each job, as ``lora`` does one by one; the backbone is left as it was.

    All jobs share the backbone and the settings. Returns, for each job, projection -> its factors ``(A, B)``; for
    :func:`worn`. Random, from each job's generator: what ``lora`` draws.

    Raises:
        UserError: a setting that a batched pass cannot have, or class images are missing.
    """
    _check(jobs, config)
    backbone = jobs[0].context.suite.backbone
    layers = projections(backbone, text_encoder=False)
    firsts = [
        {name: first_factor(_shape(layer, config), job.generator) for name, layer in layers.items()} for job in jobs
    ]
    places = {name: Additions(layer, torch.stack([first[name] for first in firsts])) for name, layer in layers.items()}
    downs, ups = [place.down for place in places.values()], [place.up for place in places.values()]
    pupils = [_Pupil(job, config) for job in jobs]
    words = torch.cat([pupil.words for pupil in pupils])
    with _standing(backbone, places), trainable([*downs, *ups]):
        optimizer = torch.optim.AdamW([*downs, *ups], config.lr, weight_decay=1e-2, eps=1e-8, fused=True)
        for step in range(1, config.steps + 1):
            losses = _losses(backbone, pupils, words)
            _descend(losses.sum(), [*downs, *ups], optimizer, config.clip)
            if step % config.report_every == 0 or step == config.steps:
                for job, loss in zip(jobs, losses.tolist(), strict=True):
                    job.context.progress(step, config.steps, {"loss": loss})
    found = {name: (place.down.detach(), place.up.detach()) for name, place in places.items()}
    return [{name: (down[row], up[row]) for name, (down, up) in found.items()} for row in range(len(jobs))]


@contextmanager
def worn(backbone: Backbone, factors: Mapping[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Fuse one subject's additions into the backbone for the length of the block: to draw, or to save."""
    layers = projections(backbone, text_encoder=False)
    with backbone.borrowed(Config().changes(backbone)):
        with torch.no_grad():
            for name, (down, up) in factors.items():
                layers[name].weight += up @ down
        yield


class _Pupil:
    """What one subject needs in each step."""

    def __init__(self, job: Job, config: Config) -> None:
        self.backbone, self.stream, self.batch = job.context.suite.backbone, job.generator, config.batch
        self.prior: Prior | None = prior(config, job.context)
        self.latents = Latents.of(self.backbone, job.images)
        prompts = [*instance_prompts(config, job.context), *([self.prior.prompt] if self.prior else [])]
        with torch.no_grad():
            self.words = self.backbone.embed(prompts).repeat_interleave(config.batch, 0)

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """As the loop of one subject draws."""
        return draw(self.backbone, self.latents.draw(self.batch, self.stream), self.prior, self.stream)


def _losses(backbone: Backbone, pupils: Sequence[_Pupil], words: Tensor) -> Tensor:
    """DreamBooth's loss of each subject, ``(S,)``."""
    latents, times, noise = (torch.cat(parts) for parts in zip(*(pupil.draw() for pupil in pupils), strict=True))
    noisy, target = backbone.noised(latents, noise, times)
    errors = (backbone.unet(noisy, times, words).sample - target).pow(2).mean((1, 2, 3)).view(len(pupils), -1)
    batch, known = pupils[0].batch, pupils[0].prior
    loss: Tensor = errors[:, :batch].mean(1)
    return loss + known.weight * errors[:, batch:].mean(1) if known else loss


def _descend(loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, clip: float) -> None:
    """One step, the gradient of each subject clipped on its own."""
    gradients = torch.autograd.grad(loss, parameters)
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    share = (clip / (norms + 1e-6)).clamp(max=1).view(-1, 1, 1)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = (gradient * share).contiguous()  # the fused step reads memory in the parameter's order
    optimizer.step()


@contextmanager
def _standing(backbone: Backbone, places: Mapping[str, Additions]) -> Iterator[None]:
    """Put layers in the place of those that they hold, and those back at the end."""

    def put(name: str, layer: nn.Module) -> None:
        parent, _, leaf = name.removeprefix("unet.").rpartition(".")
        setattr(backbone.unet.get_submodule(parent), leaf, layer)

    try:
        for name, place in places.items():
            put(name, place)
        yield
    finally:
        for name, place in places.items():
            put(name, place.old)


def _shape(layer: nn.Linear, config: Config) -> torch.Size:
    return torch.Size([config.rank, layer.in_features])


def _check(jobs: Sequence[Job], config: Config) -> None:
    if not jobs:
        raise UserError("together: no subjects; give one at least.")
    words = [job.context.decoupling for job in jobs]
    wrong = {
        "text_encoder=true": config.text_encoder,
        "optimizer=adam8bit": config.optimizer != "adamw",
        "several templates": len(config.templates) > 1,
        "new words for the noise": any(each is not None and each.tokens != "text" for each in words),
        "precision fp16": jobs[0].context.suite.backbone.dtype == torch.float16,
    }
    for name, asked in wrong.items():
        if asked:
            raise UserError(f"together: {name} is for one subject at a time; use the trainer `lora`.")
