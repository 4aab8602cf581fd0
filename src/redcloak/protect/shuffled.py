"""A real perturbation with its phases shuffled (control): the same spectrum and the same values, nothing of its aim."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Kind, Method
from redcloak.config import Choice, MethodChoice, ProtectConfig
from redcloak.crafting.balls import quantise
from redcloak.protect.transplant import perturbation
from redcloak.rng import generator, randn

METHOD = Method(
    title="Phase-shuffled perturbation (control)",
    cite="Schreiber & Schmitz, Improved Surrogate Data for Nonlinearity Tests, Phys. Rev. Lett. 77, 1996.",
    stochastic=True,
    needs=("backbone",),
)


class Config(ProtectConfig):
    """Whose perturbation, and how closely its spectrum is met."""

    base: MethodChoice = Field(Choice(name="aspl"), description="the protection whose perturbation is shuffled")
    turns: int = Field(50, ge=1, description="iterations between the spectrum and the values")

    def parts(self) -> tuple[tuple[Kind, Choice], ...]:
        """The protection."""
        return (("protect", self.base),)


def shuffled(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Protect, then replace each perturbation by noise of the same power spectrum and the same values (IAAFT).

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos are
    protected together where the base does so. Amplitudes and values are those of each channel; what changes is where
    the structure lies. The values end exact, the spectrum nearly so; cutting to [0, 1] changes both a little.
    Random: what the base draws from ``generators[i]``, and the phases from streams named by them.

    Cite: Schreiber & Schmitz, Phys. Rev. Lett. 77, 635, 1996. License: Apache-2.0.
    """
    offset = perturbation(images, config.base, config, context, generators)
    streams = [generator(stream.initial_seed(), "phases") for stream in generators]  # wherever the base left its own
    return quantise(images + shuffle_phases(offset, streams, config.turns), images, config.ball)


def shuffle_phases(offset: Tensor, generators: Sequence[Generator], turns: int) -> Tensor:
    """Noise with the amplitude spectrum and the sorted values of ``offset``, channel by channel: ``(N, C, H, W)``."""
    height, width = offset.shape[-2:]
    amplitude = torch.fft.rfft2(offset).abs()
    values = offset.flatten(2).sort(-1).values
    now = with_values(randn(offset, generators), values)
    for _ in range(turns):
        phase = torch.fft.rfft2(now).angle()
        now = with_values(torch.fft.irfft2(torch.polar(amplitude, phase), s=(height, width)), values)
    return now


def with_values(field: Tensor, values: Tensor) -> Tensor:
    """The ranks of ``field``, channel by channel, with the sorted ``values`` in their places."""
    flat = field.flatten(2)
    ranks = flat.argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)
    return values.gather(-1, ranks).view_as(field)
