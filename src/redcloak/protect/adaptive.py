"""An adaptive protection: any other one, crafted through the purifiers and the trainer of the red team."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from torch import Generator, Tensor

from redcloak import registry
from redcloak.api import Context, Kind, Method
from redcloak.config import Chain, Choice, MethodChoice, ProtectConfig
from redcloak.crafting.lens import gradient_share, lens
from redcloak.crafting.surrogate import SurrogateConfig
from redcloak.errors import UserError
from redcloak.prompts import Decoupling

METHOD = Method(
    title="Adaptive protection",
    cite="Liu et al., arXiv 2406.18944, section 5.3; Athalye et al., Obfuscated Gradients Give a False Sense of "
    "Security, ICML 2018.",
    version=2,
    license="Apache-2.0 (nothing was released; written from the papers)",
    stochastic=True,
    needs=("backbone",),
)


def _words(value: Any) -> Any:
    """``true`` stands for contrastive decoupling as it is, ``false`` for none."""
    return {True: Decoupling(), False: None}[value] if isinstance(value, bool) else value


class Config(ProtectConfig):
    """The protection, what it is crafted through, and how gradients pass."""

    base: MethodChoice = Field(Choice(name="aspl"), description="the protection to make adaptive, with its settings")
    through: tuple[Chain, ...] = Field(
        ((Choice(name="codesr"),),), description="chains of purifiers; of several, one is drawn in each step"
    )
    decoupling: Annotated[Decoupling | None, BeforeValidator(_words)] = Field(
        None, description="train the surrogate, and ascend, with the prompts of CDL: true, or its settings"
    )
    plain: float = Field(0.0, ge=0, lt=1, description="share of the steps that look through no purifier")
    draws: int = Field(1, ge=1, description="draws of the purifier's randomness averaged in a step (EOT)")
    gradient: Literal["exact", "straight_through"] = Field(
        "exact", description="of the purifier, or of its stand-in; straight_through takes all purifiers for identities"
    )

    def parts(self) -> tuple[tuple[Kind, Choice], ...]:
        """The protection and every purifier."""
        purifiers: list[tuple[Kind, Choice]] = [("purify", step) for chain in self.through for step in chain]
        return (("protect", self.base), *purifiers)


def adaptive(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Run ``base`` with its loss taken of the purified image: ``max_d E L(P(x + d))`` over P's randomness.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos of a
    subject are protected together where the base does so. Surrogates, too, are trained on purified photos, as the
    red team would; with ``decoupling`` under the prompts of contrastive decoupling learning. The paper's own adaptive
    perturbation answers its purifier alone. Reports ``lens_gradient``, the share of the gradient that passes the
    purifier (:mod:`redcloak.crafting.masking`).
    Random: what the base draws, and the purifiers' randomness, from ``generators[i]``.

    Cite: Liu et al., arXiv 2406.18944, section 5.3. License: Apache-2.0.
    """
    entry = registry.load("protect", config.base.name)
    if config.decoupling and config.decoupling.words:
        raise UserError("adaptive: a surrogate knows the noise token as text; leave decoupling.tokens=text.")
    if config.decoupling and not issubclass(entry.config, SurrogateConfig):
        raise UserError(f"adaptive: decoupling changes how a surrogate is trained, and {entry.name} trains none.")
    given = context.suite.settings(config.base.name, config.base.settings) | {
        "budget": config.budget,
        "norm": config.norm,
    }
    inside = replace(
        context,
        lens=lens(config.through, context, config.gradient, config.plain),
        lens_draws=config.draws,
        decoupling=config.decoupling or context.decoupling,
    )
    if inside.lens:
        share = gradient_share(inside, images, generators)
        context.progress(0, 1, {"lens_gradient": share})
    result: Tensor = entry.function(images, entry.configure(**given), inside, generators)
    return result
