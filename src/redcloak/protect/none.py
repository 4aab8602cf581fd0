"""No protection: the photos as they are. The baseline arm of every audit."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import ProtectConfig

METHOD = Method(title="No protection", cite="The clean arm of any controlled experiment.")


class Config(ProtectConfig):
    """Nothing to set; the budget is not used."""


def none(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Images ``(N, 3, H, W)`` in [0, 1] -> the same images.

    Cite: the clean arm of any controlled experiment. License: Apache-2.0.
    """
    return images.clone()
