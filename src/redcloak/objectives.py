"""Differentiable losses of images through a backbone: what a protection ascends.

An objective maps images ``(N, 3, H, W)`` in [0, 1] and one generator per image to a loss per image ``(N,)``; row
``i`` depends on image ``i`` and generator ``i`` alone. Ascending it makes the picture harder to learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from redcloak.backbone import Backbone

Objective = Callable[[Tensor, Sequence[Generator]], Tensor]


def denoising(backbone: Backbone, prompt: str, *, draws: int = 1) -> Objective:
    """The training loss of latent diffusion, ``E_{t, eps} |eps_theta(z_t, t, c) - eps|^2``.

    ``draws`` (t, eps) pairs are averaged from one pass of the encoder. Random: the step, the noise and, where the
    backbone samples its latents, the posterior, all from the image's own generator.

    Cite: Liang et al., "Adversarial Example Does Good", ICML 2023, equation 6 (AdvDM).
    """
    with torch.no_grad():
        embedding = backbone.embed([prompt])

    def loss(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        latents = backbone.encode(images, generators)
        condition = embedding.expand(len(images), -1, -1)
        return torch.stack([backbone.denoising_loss(latents, condition, generators) for _ in range(draws)]).mean(0)

    return loss


def encoder_distance(backbone: Backbone, target: Tensor, *, towards: bool = True) -> Objective:
    """The distance ``||E(x) - z||_2`` of the encoder's mean latents to a target, ``(N,)``.

    ``towards`` ascends its negative (a targeted protection pulls the latents to ``z``). With ``z = E(x_0)`` and
    ``towards=False`` its gradient at ``x_0`` is zero: start at random.

    Cite: Salman et al., "Raising the Cost of Malicious AI-Powered Image Editing", ICML 2023, equation 2 (PhotoGuard).
    """
    sign = -1.0 if towards else 1.0

    def loss(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        distance: Tensor = (backbone.encode(images) - target).flatten(1).norm(dim=1)
        return sign * distance

    return loss


def value_and_gradient(objective: Objective, images: Tensor, generators: Sequence[Generator]) -> tuple[Tensor, Tensor]:
    """The loss of each image ``(N,)`` and its gradient with respect to that image ``(N, 3, H, W)``."""
    leaf = images.detach().requires_grad_(True)
    losses = objective(leaf, generators)
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradient
