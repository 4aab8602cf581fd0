"""How far a picture is seen to have moved: the suite's own perceptual distance, or LPIPS from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from redcloak.config import MethodConfig, later
from redcloak.errors import UserError
from redcloak.models import lpips as network

if TYPE_CHECKING:
    from redcloak.suite import Suite


class ClosenessConfig(MethodConfig):
    """Base of the methods whose pictures stay near others by a perceptual distance."""

    lpips: Path | None = later(
        None, description="a file of redcloak.convert.lpips (the authors' is VGG) in place of the suite's clip"
    )

    def slots(self) -> tuple[str, ...] | None:
        """LPIPS from a file stands in for the distance of the suite's own CLIP."""
        return ("backbone",) if self.lpips else None

    def check(self) -> None:
        """See that the file is there."""
        if self.lpips and not self.lpips.is_file():
            raise UserError(f"lpips = {str(self.lpips)!r}: no such file; make it with redcloak.convert.lpips.")

    def distance(self, suite: Suite) -> Callable[[Tensor, Tensor], Tensor]:
        """Two batches in [0, 1] -> their distance ``(N,)``, differentiable."""
        if self.lpips is None:
            return suite.perceptual
        device = suite.device
        net = network.load(self.lpips, device)
        return lambda a, b: net(a.to(device), b.to(device)).to(a)
