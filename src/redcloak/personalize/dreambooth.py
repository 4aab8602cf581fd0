"""DreamBooth: fine-tune the UNet and the text encoder on a subject's photos, with prior preservation."""

from __future__ import annotations

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.config import MethodConfig, transport
from redcloak.errors import UserError
from redcloak.prompts import NONE
from redcloak.training import FineTune, Latents, Prior, trainable

METHOD = Method(
    title="DreamBooth (full fine-tune)",
    cite="Ruiz et al., DreamBooth: Fine Tuning Text-to-Image Diffusion Models, CVPR 2023.",
    stochastic=True,
    needs=("backbone",),
)


class Config(MethodConfig):
    """The optimizer's budget. The defaults are the paper's protocol for Stable Diffusion 2.1 at 512 pixels."""

    steps: int = Field(1000, ge=1, description="optimizer steps")
    lr: float = Field(5e-7, gt=0, description="AdamW learning rate, constant")
    batch: int = Field(1, ge=1, description="instance pictures a step; as many class pictures beside them")
    prior_weight: float = Field(1.0, ge=0, description="weight of the class pictures' loss; 0 switches them off")
    text_encoder: bool = Field(True, description="train the text encoder too")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    report_every: int = transport(10, ge=1, description="steps between two progress reports")


def dreambooth(images: Tensor, config: Config, context: Context, generator: Generator) -> None:
    """Train ``context.suite.backbone`` in place on instance images ``(N, 3, H, W)`` in [0, 1].

    Loss: the instance pictures' denoising loss plus ``prior_weight`` times the class pictures'
    (``context.class_images``, made by the model itself from the plain class prompt). With contrastive decoupling
    learning (``context.decoupling``) only the two prompts change. Random, from ``generator``: the order of the
    pictures, their posteriors, steps and noise.

    Cite: Ruiz et al., CVPR 2023, equation 2; Liu et al., arXiv 2406.18944, algorithm 1. License: Apache-2.0.
    """
    backbone, prompts = context.suite.backbone, context.decoupling or NONE
    prior = None
    if config.prior_weight > 0:
        if context.class_images is None or not len(context.class_images):
            raise UserError("dreambooth: prior_weight > 0 needs class images; set class_images > 0 or prior_weight=0.")
        latents = Latents.of(backbone, context.class_images)
        prior = Prior(latents, prompts.prior(context.subject), config.prior_weight)
    tuning = FineTune(
        backbone,
        prompts.instance(context.subject),
        lr=config.lr,
        prior=prior,
        batch=config.batch,
        text_encoder=config.text_encoder,
        clip=config.clip,
    )
    instance, recent = Latents.of(backbone, images), 0.0
    with trainable(tuning.parameters):
        for step in range(1, config.steps + 1):
            loss = tuning.step(instance.draw(config.batch, generator), generator)
            recent = loss if step == 1 else 0.9 * recent + 0.1 * loss
            if step % config.report_every == 0 or step == config.steps:
                context.progress(step, config.steps, {"loss": recent})
