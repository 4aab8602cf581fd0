"""CodeSR: restore, then shrink and enlarge. The red team's purifier."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Kind, Method
from redcloak.config import Choice, MethodConfig
from redcloak.purify import restore, upscale

METHOD = Method(
    title="CodeSR (restoration, then super-resolution)",
    cite="Liu et al., Rethinking and Red-Teaming Protective Perturbation, arXiv 2406.18944, section 4.2.",
    license="Apache-2.0 with the small suite (CodeFormer itself: S-Lab licence, non-commercial)",
    stochastic=True,
    needs=("restorer", "upscaler"),
    differentiable=True,
)


class Config(MethodConfig):
    """The knobs of both halves; defaults are the paper's at 512 pixels."""

    fidelity: float = Field(0.5, ge=0, le=1, description="the restorer's: 0 trusts the prior, 1 the picture")
    shrink: float = Field(4.0, ge=1, le=8, description="side before / side after shrinking, before x4")
    noise_level: int = Field(20, ge=0, le=350, description="the upscaler's")

    def parts(self) -> tuple[tuple[Kind, Choice], ...]:
        """The two halves."""
        return (("purify", Choice(name="restore")), ("purify", Choice(name="upscale")))


def codesr(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Restore at ``fidelity``, shrink by ``shrink``, enlarge x4, return at the size that came in.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Random: the upscaler's noise, from ``generators[i]``.
    Subjects that are no people (person, face, man, woman, boy, girl, child, people or human, in any case) are only
    super-resolved, as in the authors' code, which knows "person" alone: a face restorer knows faces.

    Cite: Liu et al., arXiv 2406.18944, section 4.2. License: Apache-2.0 with the small suite.
    """
    if context.subject.is_human:
        images = restore.restore(images, restore.Config(fidelity=config.fidelity), context, generators)
    enlarge = upscale.Config(shrink=config.shrink, noise_level=config.noise_level)
    return upscale.upscale(images, enlarge, context, generators)
