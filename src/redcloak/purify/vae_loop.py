"""The autoencoder alone as a purifier: encode, decode."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import MethodConfig
from redcloak.padding import on_grid

METHOD = Method(
    title="Autoencoder loop",
    cite="Community practice against style cloaks (deglazers); no paper.",
    stochastic=True,
    needs=("backbone",),
    differentiable=True,
)


class Config(MethodConfig):
    """How often the picture goes round."""

    passes: int = Field(1, ge=1, le=16, description="encode-decode rounds")
    sample: bool = Field(True, description="draw from the encoder's posterior, instead of taking its mean")


def vae_loop(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Encode and decode the pictures by the suite's own autoencoder, ``passes`` times.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. The attacker's encoder is the one that latent-space protections
    are crafted against: what deceives it passes, what is outside its range is lost. Random: the posterior, from
    ``generators[i]``, unless the suite takes latent means.

    Cite: no paper; field practice. License: Apache-2.0.
    """
    backbone = context.suite.backbone

    def loop(padded: Tensor) -> Tensor:
        return backbone.decode(backbone.encode(padded, generators if config.sample else None)).to(padded)

    for _ in range(config.passes):
        images = on_grid(loop, images, backbone.factor)
    return images
