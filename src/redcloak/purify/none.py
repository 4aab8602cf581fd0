"""No purification: the photos as they are. The other baseline arm of every audit."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import MethodConfig

METHOD = Method(title="No purification", cite="The untreated arm of any controlled experiment.", differentiable=True)


class Config(MethodConfig):
    """Nothing to set."""


def none(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Images ``(N, 3, H, W)`` in [0, 1] -> the same images.

    Cite: the untreated arm of any controlled experiment. License: Apache-2.0.
    """
    return images.clone()
