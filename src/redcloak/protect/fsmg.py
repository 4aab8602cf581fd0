"""FSMG of Anti-DreamBooth: train a surrogate on clean photos once, then ascend its loss."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.crafting.ascent import ascend
from redcloak.crafting.balls import quantise
from redcloak.crafting.objectives import denoising
from redcloak.crafting.rules import Plan
from redcloak.crafting.surrogate import Surrogate, SurrogateConfig, stream_of

METHOD = Method(
    title="FSMG (Anti-DreamBooth)",
    cite="Van Le et al., Anti-DreamBooth: Protecting Users from Personalized Text-to-Image Synthesis, ICCV 2023.",
    license="Apache-2.0 (the authors' code is AGPL-3.0; written from the paper)",
    stochastic=True,
    needs=("backbone",),
)


class Config(SurrogateConfig):
    """The surrogate's training, and the ascent. Defaults: the authors' script for SD 2.1."""

    train_steps: int = Field(1000, ge=0, description="surrogate steps on clean photos")
    steps: int = Field(100, ge=1, description="ascent steps")
    step_size: float = Field(0.64, gt=0, description="ascent step in 8-bit steps (/255)")

    @property
    def plan(self) -> Plan:
        """The ascent."""
        return Plan(self.ball, self.step_size / 255, self.steps)


def fsmg(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Fully-trained surrogate model guidance: DreamBooth gives ``theta_clean``, then ascent on ``L(theta_clean, x)``.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape, on the 8-bit lattice, inside the budget. The photos of a
    subject are protected together: the surrogate sees all of them. Clean photos: ``context.reference``, or the photos
    themselves. No random start. Random: the ascent's t and eps from ``generators[i]``, the training's from a stream of
    all of them.

    Cite: Van Le et al., ICCV 2023, section 4.2. License: Apache-2.0.
    """
    backbone = context.suite.backbone
    with backbone.borrowed():
        surrogate = Surrogate(backbone, context, config, stream_of(generators))
        surrogate.learn(surrogate.clean_latents(images), config.train_steps)
        surrogate.tuning.forget()  # it trains no more, and the ascent needs the room
        objective = denoising(backbone, surrogate.prompt)
        result = ascend(images, images, objective, generators, config.plan, context, together=True)
    return quantise(result, images, config.ball)
