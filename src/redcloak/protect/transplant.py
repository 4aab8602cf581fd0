"""The perturbation of another photo (control): as strong, as structured, and made for somebody else's pixels."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Generator, Tensor

from redcloak import registry
from redcloak.api import Context, Kind, Method
from redcloak.config import Choice, MethodChoice, ProtectConfig
from redcloak.crafting.balls import quantise
from redcloak.errors import UserError

METHOD = Method(
    title="Transplanted perturbation (control)",
    cite="The control of Liu et al., arXiv 2406.18944, that its referees asked for: statistics kept, aim removed.",
    stochastic=True,
    needs=("backbone",),
)

CONTROLS = ("clip_only", "latents_only", "matched_noise", "realign", "shuffled", "transplant")


class Config(ProtectConfig):
    """Whose perturbation."""

    base: MethodChoice = Field(Choice(name="aspl"), description="the protection whose perturbations change places")

    def parts(self) -> tuple[tuple[Kind, Choice], ...]:
        """The protection."""
        return (("protect", self.base),)


def transplant(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Protect all photos, then give each the perturbation of the next one; the last gets the first one's.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos are
    protected together; a single photo gets its own perturbation, mirrored. Random: what the base draws.

    Cite: a control of the causal analysis asked for by the referees of arXiv 2406.18944. License: Apache-2.0.
    """
    offset = perturbation(images, config.base, config, context, generators)
    return quantise(images + moved_on(offset), images, config.ball)


def moved_on(offset: Tensor) -> Tensor:
    """Perturbations ``(N, C, H, W)``, each in the place of the one before it; a single one mirrored."""
    return offset.roll(-1, 0) if len(offset) > 1 else offset.flip(-1)


def perturbation(
    images: Tensor, base: Choice, config: ProtectConfig, context: Context, generators: Sequence[Generator]
) -> Tensor:
    """What a protection adds to the photos, under the budget of ``config``.

    Raises:
        UserError: the base is itself a control.
    """
    if base.name in CONTROLS:
        raise UserError(f"base: {base.name} is a control of other protections; choose a protection, such as aspl.")
    entry = registry.load("protect", base.name)
    given = context.suite.settings(base.name, base.settings) | {"budget": config.budget, "norm": config.norm}
    protected: Tensor = entry.function(images, entry.configure(**given), context, generators)
    return protected - images
