"""LPIPS: perceptual distance of a photo to its original. Weights from a file of yours."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig
from redcloak.errors import UserError
from redcloak.models import lpips as network

METHOD = Method(
    title="LPIPS",
    cite="Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018.",
    license="Apache-2.0; weights: BSD-2-Clause (the linear ones), BSD-3-Clause (torchvision's trunks)",
    paired=True,
    scores={"lpips": Score("LPIPS", False, 0, 10, "0 to 1 on photos", 1)},
)


class Config(MethodConfig):
    """The weights."""

    weights: Path | None = Field(None, description="a file made by python -m redcloak.convert.lpips; no default")

    def check(self) -> None:
        """See that the file is there."""
        if self.weights is None:
            raise UserError("weights: give a file that redcloak.convert.lpips made, as in --set lpips.weights=FILE.")
        if not self.weights.is_file():
            raise UserError(f"weights = {str(self.weights)!r}: no such file; make it with redcloak.convert.lpips.")


def lpips(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """The distance of each picture to its original in ``context.reference``, both as read from the saved files.

    Images ``(N, 3, H, W)`` in [0, 1] of at least 64 pixels; on AlexNet or VGG-16, as the file has it: the two do not
    compare. Nothing is random.

    Raises:
        UserError: the weights are not given, not there or not LPIPS's; or an original is missing.

    Cite: Zhang et al., CVPR 2018, equation 1. License: BSD (the weights).
    """
    original = context.reference
    if original is None or original.shape != images.shape:
        raise UserError("lpips: it needs the original of each picture, of the same size and in the same order.")
    config.check()
    assert config.weights is not None
    device = context.suite.device
    distance = network.load(config.weights, device)
    with torch.no_grad():
        rows = [distance(a[None].to(device), b[None].to(device)) for a, b in zip(images, original, strict=True)]
    return {"lpips": torch.cat(rows).cpu()}
