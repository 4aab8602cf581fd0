"""Noise as strong and as coarse as a protection (control): its values and its radial spectrum, nothing else of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Kind, Method
from redcloak.config import Choice, MethodChoice, ProtectConfig
from redcloak.crafting.balls import quantise
from redcloak.protect.shuffled import with_values
from redcloak.protect.transplant import perturbation
from redcloak.rng import generator, randn

METHOD = Method(
    title="Noise matched in L_inf, L2 and spectrum (control)",
    cite="Schreiber & Schmitz, Phys. Rev. Lett. 77, 1996, on the radial spectrum alone.",
    stochastic=True,
    needs=("backbone",),
)


class Config(ProtectConfig):
    """Whose statistics, and how closely they are met."""

    base: MethodChoice = Field(Choice(name="advdm"), description="the protection whose statistics are matched")
    turns: int = Field(50, ge=1, description="iterations between the spectrum and the values")

    def parts(self) -> tuple[tuple[Kind, Choice], ...]:
        """The protection."""
        return (("protect", self.base),)


def matched_noise(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Gaussian noise given the radial power spectrum and the values of each perturbation, channel by channel.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos are
    protected together where the base does so. L_inf and L2 are those of the base but for what is cut to [0, 1]; the
    spectrum is met nearly. Unlike ``shuffled`` it keeps neither the direction of structure nor a single amplitude.
    Random: what the base draws from ``generators[i]``, and the noise from streams named by them.

    Cite: Schreiber & Schmitz, Phys. Rev. Lett. 77, 635, 1996. License: Apache-2.0.
    """
    offset = perturbation(images, config.base, config, context, generators)
    streams = [generator(stream.initial_seed(), "matched") for stream in generators]
    return quantise(images + match(offset, streams, config.turns), images, config.ball)


def match(offset: Tensor, generators: Sequence[Generator], turns: int) -> Tensor:
    """Noise ``(N, C, H, W)`` with the sorted values of ``offset`` and, nearly, its radial power spectrum."""
    height, width = offset.shape[-2:]
    rings = radii(height, width).to(offset.device)
    wanted = radial_power(offset, rings)
    values = offset.flatten(2).sort(-1).values
    now = randn(offset, generators)
    for _ in range(turns):
        gain = (wanted / radial_power(now, rings).clamp_min(1e-20)).sqrt()
        now = with_values(torch.fft.irfft2(torch.fft.rfft2(now) * gain[..., rings], s=(height, width)), values)
    return now


def radii(height: int, width: int) -> Tensor:
    """The ring of each frequency of ``rfft2``, by its distance from zero: ``(H, W // 2 + 1)`` int64."""
    down = torch.fft.fftfreq(height)[:, None] * max(height, width)
    across = torch.fft.rfftfreq(width)[None] * max(height, width)
    radius: Tensor = (down.pow(2) + across.pow(2)).sqrt()
    return radius.round().long()


def radial_power(offset: Tensor, rings: Tensor) -> Tensor:
    """The mean power in each ring: ``(N, C, rings)``."""
    return radial_energy(offset, rings) / torch.bincount(rings.flatten()).clamp_min(1)


def radial_energy(offset: Tensor, rings: Tensor) -> Tensor:
    """The energy of perturbations ``(N, C, H, W)`` in each ring of their spectrum: ``(N, C, rings)``."""
    power, index = torch.fft.rfft2(offset).abs().pow(2).flatten(2), rings.flatten()
    total = torch.zeros(*power.shape[:2], int(index.max()) + 1, device=offset.device)
    return total.index_add(2, index, power)
