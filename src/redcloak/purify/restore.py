"""Restoration by the suite's restorer (CodeFormer's place): degraded faces -> clean ones."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import MethodConfig

METHOD = Method(
    title="Restoration",
    cite="Zhou et al., Towards Robust Blind Face Restoration with Codebook Lookup Transformer, NeurIPS 2022.",
    license="Apache-2.0 (the small suite's own restorer)",
    needs=("restorer",),
    differentiable=True,
)


class Config(MethodConfig):
    """How far the restorer trusts what it sees."""

    fidelity: float = Field(0.5, ge=0, le=1, description="CodeFormer's w: 0 trusts the prior, 1 the picture")


def restore(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Pass the pictures through the suite's restorer.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Nothing is random. A restorer of faces in the suite's slot
    leaves a picture without one as it was: ``pictures_without_face`` is reported.

    Cite: Zhou et al., NeurIPS 2022; its use as a purifier: Liu et al., arXiv 2406.18944, section 4.2.
    License: Apache-2.0 with the small suite; that of the restorer otherwise.
    """
    return context.suite.restorer(images, config.fidelity, context.progress)
