"""LIQE: no-reference quality by a CLIP that was trained for it. Weights from a folder of yours."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from torch import Tensor

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig
from redcloak.errors import UserError
from redcloak.models import liqe as model

METHOD = Method(
    title="LIQE",
    cite="Zhang et al., Blind Image Quality Assessment via Vision-Language Correspondence, CVPR 2023.",
    license="Apache-2.0; weights: MIT",
    scores={"liqe": Score("LIQE", True, 1, 5, "1 to 5", 8)},
)


class Config(MethodConfig):
    """The weights."""

    weights: Path | None = Field(None, description="a folder made by python -m redcloak.convert.liqe; no default")

    def check(self) -> None:
        """See that the folder is there."""
        if self.weights is None:
            raise UserError("weights: give a folder that redcloak.convert.liqe made, as in --set liqe.weights=FOLDER.")
        if not (self.weights / "config.json").is_file():
            raise UserError(f"weights = {str(self.weights)!r}: no config.json in it; see redcloak.convert.liqe.")


def liqe(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """Quality from 1 (bad) to 5 (perfect) of each picture, ``(N,)``, at its own size.

    The mean logits of up to fifteen patches of 224 x 224 for 495 sentences about scene, distortion and quality; the
    expectation over the five words of quality. A suite whose slot ``quality`` is such a folder has it as ``quality``.
    Images ``(N, 3, H, W)`` in [0, 1]; a picture of fewer than 224 pixels is enlarged. Nothing is random.

    Raises:
        UserError: the weights are not given, not there, or not LIQE's.

    Cite: Zhang et al., CVPR 2023. License: MIT (the weights).
    """
    config.check()
    assert config.weights is not None
    return {"liqe": model.liqe(config.weights, context.suite.device)(images)}
