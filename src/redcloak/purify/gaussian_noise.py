"""Gaussian noise, laid over the perturbation."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import MethodConfig
from redcloak.rng import randn

METHOD = Method(
    title="Gaussian noise",
    cite="Hönig et al., Adversarial Perturbations Cannot Reliably Protect Artists From Generative AI, ICLR 2025.",
    stochastic=True,
    differentiable=True,
)


class Config(MethodConfig):
    """How strong the noise is."""

    sigma: float = Field(
        0.05, gt=0, le=1, description="standard deviation in [0, 1] units, as the field has it; 0.05 is 12.75/255"
    )


def gaussian_noise(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Add independent normal noise to every value and cut to [0, 1].

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Random: the noise, from ``generators[i]``.

    Cite: Hönig et al., ICLR 2025 ("Gaussian noising"). License: Apache-2.0.
    """
    return (images + config.sigma * randn(images, generators)).clamp(0, 1)
