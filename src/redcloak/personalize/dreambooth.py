"""DreamBooth: fine-tune the UNet and the text encoder on a subject's photos, with prior preservation."""

from __future__ import annotations

from pydantic import Field
from torch import Generator, Tensor, nn

from redcloak.api import Context, Method
from redcloak.backbone import Backbone
from redcloak.training.fitting import PriorConfig, fit

METHOD = Method(
    title="DreamBooth (full fine-tune)",
    cite="Ruiz et al., DreamBooth: Fine Tuning Text-to-Image Diffusion Models, CVPR 2023.",
    stochastic=True,
    needs=("backbone",),
)


class Config(PriorConfig):
    """The optimizer's budget. The defaults are the paper's protocol for Stable Diffusion 2.1 at 512 pixels."""

    text_encoder: bool = Field(True, description="train the text encoder too")

    def changes(self, backbone: Backbone) -> list[nn.Parameter]:
        """The UNet, and the text encoder where it trains."""
        return backbone.trainable(text_encoder=self.text_encoder)


def dreambooth(images: Tensor, config: Config, context: Context, generator: Generator) -> None:
    """Train ``context.suite.backbone`` in place on instance images ``(N, 3, H, W)`` in [0, 1].

    Loss: the instance pictures' denoising loss plus ``prior_weight`` times the class pictures'
    (``context.class_images``, made by the model itself from the plain class prompt). With contrastive decoupling
    learning (``context.decoupling``) only the two prompts change. Random, from ``generator``: the order of the
    pictures, their posteriors, steps and noise.

    Cite: Ruiz et al., CVPR 2023, equation 2; Liu et al., arXiv 2406.18944, algorithm 1. License: Apache-2.0.
    """
    fit(images, config, context, generator)
