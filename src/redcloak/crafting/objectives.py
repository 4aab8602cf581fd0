"""Differentiable losses of images through a backbone: what a protection ascends.

An objective maps images ``(N, 3, H, W)`` in [0, 1], one generator per image, and ``rows`` (which of the photos these
are) to a loss per image ``(N,)``; row ``i`` depends on image ``i`` and generator ``i`` alone. Ascending it makes the
picture harder to learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint

from redcloak.api import Lens
from redcloak.backbone import Backbone
from redcloak.memory import LOSS_SCALE
from redcloak.rng import randint, randn

Rows = slice | list[int]
EVERY = slice(None)
Times = Callable[[Rows, Sequence[Generator]], Tensor]


class Objective(Protocol):
    """A loss per image; see the module."""

    def __call__(self, images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor: ...


def value_and_gradient(
    objective: Objective, images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY
) -> tuple[Tensor, Tensor]:
    """The loss of each image ``(N,)`` and its gradient with respect to that image ``(N, 3, H, W)``."""
    leaf = images.detach().requires_grad_(True)
    losses = objective(leaf, generators, rows)
    (gradient,) = torch.autograd.grad(losses.sum() * LOSS_SCALE, leaf)
    return losses.detach().to(gradient.device), gradient / LOSS_SCALE


def negated(objective: Objective) -> Objective:
    """The same loss, to be descended."""

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        return -objective(images, generators, rows)

    return loss


def weighted(*terms: tuple[float, Objective]) -> Objective:
    """A weighted sum of losses; each draws its own randomness, in the order given."""

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        return torch.stack([weight * term(images, generators, rows) for weight, term in terms]).sum(0)

    return loss


def through(objective: Objective, lens: Lens, draws: int = 1) -> Objective:
    """The loss of what is left of the image behind a lens, averaged over ``draws`` of the lens's randomness.

    Cite: Athalye et al., "Synthesizing Robust Adversarial Examples", ICML 2018 (expectation over transformation).
    """

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        return torch.stack([objective(lens(images, generators), generators, rows) for _ in range(draws)]).mean(0)

    return loss


def between(low: int, high: int) -> Times:
    """Diffusion steps uniform in [low, high), one from each image's generator."""

    def times(rows: Rows, generators: Sequence[Generator]) -> Tensor:
        return randint(high, generators, low)

    return times


def among(choices: Sequence[Tensor]) -> Times:
    """Diffusion steps uniform over each photo's own list."""

    def times(rows: Rows, generators: Sequence[Generator]) -> Tensor:
        lists = choices[rows] if isinstance(rows, slice) else [choices[row] for row in rows]
        picked = [int(randint(len(steps), [stream])) for steps, stream in zip(lists, generators, strict=True)]
        return torch.stack([steps[index] for steps, index in zip(lists, picked, strict=True)])

    return times


def denoising(backbone: Backbone, prompt: str, *, draws: int = 1, times: Times | None = None) -> Objective:
    """The training loss of latent diffusion, ``E_{t, eps} |eps_theta(z_t, t, c) - eps|^2``.

    ``draws`` (t, eps) pairs are averaged from one pass of the encoder. Random: the step (uniform unless ``times`` draws
    it), the noise and, where the backbone samples its latents, the posterior, all from the image's own generator. The
    prompt is embedded once, here: make the objective anew where the text encoder has been trained since.

    Cite: Liang et al., "Adversarial Example Does Good", ICML 2023, equation 6 (AdvDM).
    """
    embedding = embedded(backbone, prompt)

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        latents = backbone.encode(images, generators)
        condition = embedding.expand(len(images), -1, -1)
        errors = []
        for _ in range(draws):
            when = times(rows, generators) if times else None
            errors.append(backbone.denoising_loss(latents, condition, generators, when))
        return torch.stack(errors).mean(0)

    return loss


def encoder_distance(backbone: Backbone, target: Tensor, *, towards: bool = True) -> Objective:
    """The distance ``||E(x) - z||_2`` of the encoder's mean latents to a target ``(N or 1, C, h, w)``: ``(N,)``.

    ``towards`` ascends its negative (a targeted protection pulls the latents to ``z``). With ``z = E(x_0)`` and
    ``towards=False`` its gradient at ``x_0`` is zero: start at random.

    Cite: Salman et al., "Raising the Cost of Malicious AI-Powered Image Editing", ICML 2023, equation 2 (PhotoGuard).
    """
    sign = -1.0 if towards else 1.0

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        distance: Tensor = (backbone.encode(images) - of(target, rows)).flatten(1).norm(dim=1)
        return sign * distance

    return loss


def encoder_error(backbone: Backbone, target: Tensor) -> Objective:
    """The negative squared error ``-mean |E(x) - z|^2`` of the mean latents to a target, a texture's (Mist)."""

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        error: Tensor = (backbone.encode(images) - of(target, rows)).pow(2).mean((1, 2, 3))
        return -error

    return loss


def score_distillation(backbone: Backbone, prompt: str) -> Objective:
    """A loss whose gradient is the score-distillation one, ``J_E(x)^T (eps_theta(z_t, t, c) - eps)``.

    The UNet's own Jacobian is left out: no graph through it is kept, at about half the time and memory. The value,
    ``<z, eps_theta - eps>`` over the entries, has no meaning of its own.

    Cite: Xue et al., "Toward Effective Protection Against Diffusion-Based Mimicry through Score Distillation",
    ICLR 2024.
    """
    embedding = embedded(backbone, prompt)

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        latents = backbone.encode(images, generators)
        times = randint(len(backbone.alphas_cumprod), generators).to(latents.device)
        noise = randn(latents, generators)
        with torch.no_grad():
            noisy, _ = backbone.noised(latents, noise, times)
            error = backbone.predicted_noise(noisy, times, embedding.expand(len(images), -1, -1)) - noise
        value: Tensor = (latents * error).mean((1, 2, 3))
        return value

    return loss


def predicted_target(backbone: Backbone, prompt: str, target: Tensor, times: Times | None = None) -> Objective:
    """``-|eps_theta(z_t, t, c) - z_T|^2``: the predicted noise pulled to a fixed latent, that of a target image (ACE).

    Cite: Zheng et al., "Targeted Attack Improves Protection against Unauthorized Diffusion Customization", 2023.
    """
    embedding = embedded(backbone, prompt)
    draw = times or between(0, len(backbone.alphas_cumprod))

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        latents = backbone.encode(images, generators)
        when = draw(rows, generators).to(latents.device)
        noisy, _ = backbone.noised(latents, randn(latents, generators), when)
        guess = backbone.predicted_noise(noisy, when, embedding.expand(len(images), -1, -1))
        error: Tensor = (guess - of(target, rows)).pow(2).mean((1, 2, 3))
        return -error

    return loss


def drawn_again(
    function: Callable[[Tensor, Sequence[Generator]], Tensor], images: Tensor, generators: Sequence[Generator]
) -> Tensor:
    """A random function of images, computed again from the same draws when its gradient is asked, and not kept."""
    begun, ended = [stream.get_state() for stream in generators], list[Tensor]()

    def run(images: Tensor) -> Tensor:
        streams = [torch.Generator() for _ in begun]
        for stream, state in zip(streams, begun, strict=True):
            stream.set_state(state)
        found = function(images, streams)
        ended[:] = [stream.get_state() for stream in streams]
        return found

    found: Tensor = checkpoint(run, images, use_reentrant=False)
    for stream, state in zip(generators, ended, strict=True):
        stream.set_state(state)
    return found


@torch.no_grad()
def embedded(backbone: Backbone, prompt: str) -> Tensor:
    """The prompt's hidden states ``(1, L, D)``, without a graph."""
    return backbone.embed([prompt])


@torch.no_grad()
def one_by_one(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """A function of images asked of each alone, so that its rows do not depend on the batch, to the last bit."""
    return torch.cat([function(image) for image in torch.split(images, 1)])


def of(target: Tensor, rows: Rows) -> Tensor:
    """The targets of some photos; a single target is that of all."""
    return target if len(target) == 1 else target[rows]
