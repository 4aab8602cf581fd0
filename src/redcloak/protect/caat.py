"""CAAT: the photos ascend the loss while the cross-attention's keys and values descend it, in one backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from redcloak.api import Context, Method
from redcloak.backbone import Backbone
from redcloak.config import AscentConfig
from redcloak.crafting.ascent import check_finite, group_size
from redcloak.crafting.balls import project, quantise
from redcloak.crafting.objectives import Objective, denoising, through
from redcloak.crafting.rules import direction
from redcloak.memory import loss_scale
from redcloak.training.finetuning import trainable

METHOD = Method(
    title="CAAT",
    cite="Xu et al., Perturbing Attention Gives You More Bang for the Buck: Subtle Imaging Perturbations That "
    "Efficiently Fool Customized Diffusion Models, CVPR 2024.",
    license="Apache-2.0 (the authors' code is MIT; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(AscentConfig):
    """Steps and the keys' and values' training. Defaults: the authors' script."""

    steps: int = Field(250, ge=1, description="joint steps")
    step_size: float = Field(0.64, gt=0, description="ascent step in 8-bit steps (/255)")
    rule: Literal["sign", "normalised", "l2"] = Field(
        "sign", description="direction of a step; with norm l2 use l2; apgd halves steps, which joint ones cannot"
    )
    lr: float = Field(1e-5, gt=0, description="AdamW learning rate of the keys and values")


def caat(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """One loss, one backward pass a step: ``x`` goes up by its sign, the cross-attention's K and V go down by AdamW.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos of a
    subject are protected together: K and V learn from all of them. The prompt is the class prompt, as in the authors'
    code. No random start. Random: t, eps and the posterior of each step, from ``generators[i]``.

    Cite: Xu et al., CVPR 2024, equation 7. License: Apache-2.0.
    """
    backbone, plan = context.suite.backbone, config.plan
    objective = denoising(backbone, context.subject.class_prompt)
    if context.lens:
        objective = through(objective, context.lens, context.lens_draws)
    protected = images
    scale = loss_scale(backbone.dtype)
    with backbone.borrowed(text_encoder=False):
        parameters = _keys_and_values(backbone)
        optimizer = torch.optim.AdamW(parameters, config.lr)
        for step in range(plan.steps):
            with trainable(parameters):
                losses, gradient, slopes = _slopes(objective, protected, generators, parameters, scale)
                _descend(parameters, [slope / (len(images) * scale) for slope in slopes], optimizer)
            check_finite(losses, gradient, step, protected)
            protected = project(protected + plan.step_size * direction(gradient, plan.rule), images, plan.budget)
            context.progress(step + 1, plan.steps, {"loss": float(losses.mean())})
    return quantise(protected, images, config.ball)


def _keys_and_values(backbone: Backbone) -> list[nn.Parameter]:
    names = ("attn2.to_k.weight", "attn2.to_v.weight")
    return [parameter for name, parameter in backbone.unet.named_parameters() if name.endswith(names)]


def _slopes(
    objective: Objective,
    images: Tensor,
    generators: Sequence[Generator],
    parameters: Sequence[nn.Parameter],
    scale: float,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Loss and gradient of each photo, and ``scale`` times the parameters' summed; of large photos singly."""
    size = len(images) if group_size(images) > 1 else 1
    losses, gradients, total = [], [], list[Tensor]()
    for first in range(0, len(images), size):
        rows = slice(first, min(first + size, len(images)))
        leaf = images[rows].detach().requires_grad_(True)
        found = objective(leaf, list(generators)[rows], rows)
        gradient, *slopes = torch.autograd.grad(found.sum() * scale, [leaf, *parameters])
        losses.append(found.detach())
        gradients.append(gradient / scale)
        total = [a + b for a, b in zip(total, slopes, strict=True)] if total else slopes
    return torch.cat(losses), torch.cat(gradients), total


def _descend(parameters: Sequence[nn.Parameter], slopes: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
    for parameter, slope in zip(parameters, slopes, strict=True):
        parameter.grad = slope
    norm = nn.utils.clip_grad_norm_(parameters, 1.0)
    if norm.isfinite():  # an overflow of fp16 costs the step, not the model
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
