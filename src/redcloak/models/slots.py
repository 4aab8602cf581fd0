"""What stands in a suite's slots: our own networks where a folder holds one (``config.json``), else other people's.

Whatever it is, methods call it the same way, with images in [0, 1] on any device, and get images back on that device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from redcloak.api import Progress, silent
from redcloak.models.nets import Quality, Restorer, Upscaler
from redcloak.rng import randn

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from redcloak.models.faces import FaceBackend

Rate = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True)
class Restore:
    """A restorer: images in [0, 1] and fidelity in [0, 1] -> images of the same size.

    One that looks for faces tells ``progress`` in how many images it found none. ``differentiable``: gradients flow
    through it.
    """

    run: Callable[[Tensor, float, Progress], Tensor]
    differentiable: bool

    def __call__(self, images: Tensor, fidelity: float, progress: Progress = silent) -> Tensor:
        """As the class says."""
        return self.run(images, fidelity, progress)


@dataclass(frozen=True)
class Enlarge:
    """An upscaler; it is told of ``noise_level``, and adds noise of the level ``added``, by default the same.

    ``differentiable``: gradients flow through it.
    """

    run: Callable[[Tensor, str, int, Sequence[Generator], int | None], Tensor]
    differentiable: bool

    def __call__(
        self, images: Tensor, prompt: str, noise_level: int, generators: Sequence[Generator], added: int | None = None
    ) -> Tensor:
        """Images four times as large."""
        return self.run(images, prompt, noise_level, generators, added)


def is_ours(folder: Path) -> bool:
    """Whether a slot's folder holds one of our own networks."""
    return (folder / "config.json").is_file()


def restorer(folder: Path, device: str, faces: Callable[[], FaceBackend]) -> Restore:
    """Images in [0, 1] and fidelity in [0, 1] -> restored images of the same size."""
    if not is_ours(folder):
        from redcloak.models import restorers

        return restorers.restorer(folder, device, faces())
    net = Restorer.from_folder(folder).to(device)

    def restore(images: Tensor, fidelity: float, progress: Progress) -> Tensor:
        trust = torch.full((len(images),), fidelity, device=device)
        restored: Tensor = net(images.to(device), trust)
        return restored.clamp(0, 1).to(images.device)

    return Restore(restore, differentiable=True)


def upscaler(folder: Path, device: str) -> Enlarge:
    """Images, a prompt, a noise level and one generator per image -> images four times as large."""
    if not is_ours(folder):
        from redcloak.models import restorers

        return restorers.upscaler(folder, device)
    net = Upscaler.from_folder(folder).to(device)

    def upscale(
        images: Tensor, prompt: str, noise_level: int, generators: Sequence[Generator], added: int | None
    ) -> Tensor:
        spread = noise_spread(noise_level if added is None else added)
        noisy = images.to(device) + spread * randn(images, generators).to(device)
        level = torch.full((len(images),), noise_spread(noise_level), device=device)
        large: Tensor = net(noisy, level)
        return large.clamp(0, 1).to(images.device)

    return Enlarge(upscale, differentiable=True)


def quality(folder: Path, device: str) -> Rate:
    """Images in [0, 1] -> no-reference quality from 1 to 5, ``(N,)``: LIQE where the folder holds a CLIP."""
    if json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "clip":
        from redcloak.models.liqe import liqe

        return liqe(folder, device)
    net = Quality.from_folder(folder).to(device)

    def score(images: Tensor) -> Tensor:
        with torch.no_grad():
            values: Tensor = net(images.to(device))
        return values.cpu()

    return score


def noise_spread(level: int) -> float:
    """The standard deviation, in [0, 1] units, of the x4 upscaler's noise schedule at a step.

    The schedule of the Stable Diffusion x4 upscaler: scaled-linear betas from 0.0001 to 0.02 over 1000 steps.
    """
    power = 1.0
    for step in range(level + 1 if level else 0):
        root = 0.0001**0.5 + (0.02**0.5 - 0.0001**0.5) * step / 999
        power *= 1 - root**2
    return float((1 - power) ** 0.5 / 2)
