"""The paper's two sums: Q, of quality alone, and Avg, of identity and quality."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from redcloak import registry
from redcloak.api import Context, Kind, Method, Score
from redcloak.config import Choice, MethodChoice, MethodConfig

METHOD = Method(
    title="Q and Avg",
    cite="Liu et al., arXiv 2406.18944 (Q = half LIQE in [-1, 1] + half CLIP-IQAC; Avg = half IMS + half Q).",
    license="Apache-2.0; weights: those of its parts",
    scores={
        "q": Score("Q (LIQE and CLIP-IQAC)", True, -1, 1, "", 8),
        "avg": Score("Avg (IMS and Q)", True, -1, 1, "", 8),
    },
)

FITTING = {"quality": ("quality", "liqe"), "identity": ("ims",)}  # the formulas fix their scales: 1 to 5, and IMS's


class Config(MethodConfig):
    """Its parts."""

    quality: MethodChoice = Field(Choice(name="quality"), description="quality (the suite's), or liqe with its weights")
    identity: MethodChoice = Field(Choice(name="ims"), description="ims with its settings")

    @field_validator("quality", "identity")
    @classmethod
    def _summable(cls, value: Choice, info: ValidationInfo) -> Choice:
        fitting = FITTING[str(info.field_name)]
        if value.name not in fitting:
            raise ValueError(f"its scale does not fit the sum; choose {' or '.join(fitting)}")
        return value

    def parts(self) -> tuple[tuple[Kind, Choice], ...]:
        """The three scores that it sums."""
        return ("metrics", self.quality), ("metrics", Choice(name="clip_iqa")), ("metrics", self.identity)


def overall(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """``q`` = ((quality - 1) / 2 - 1 + CLIP-IQAC) / 2 and ``avg`` = (IMS + q) / 2 of each picture, ``(N,)``.

    ``quality`` runs from 1 to 5. Two numbers that trade one thing against another hide what happened: read the parts
    beside them. With the suite's own quality model in LIQE's place, figures compare within that suite only. Images
    ``(N, 3, H, W)`` in [0, 1]; references in ``context.reference``. Nothing is random.

    Raises:
        UserError: whatever a part misses.

    Cite: Liu et al., arXiv 2406.18944. License: Apache-2.0.
    """
    found: dict[str, Tensor] = {}
    for kind, choice in config.parts():
        part = registry.load(kind, choice.name)
        found |= part.function(images, part.configure(**choice.settings), context)
    q = mean_of((found[config.quality.name] - 1) / 2 - 1, found["clip_iqac"])
    return {"q": q, "avg": mean_of(found["ims"], q)}


def mean_of(a: Tensor, b: Tensor) -> Tensor:
    """Half of each."""
    return (a + b) / 2
