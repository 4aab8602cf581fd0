"""The loop that every trainer shares: steps, progress, a running loss, and a state that a killed run goes on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field, field_validator

from redcloak.config import MethodConfig, transport
from redcloak.errors import UserError
from redcloak.prompts import NONE, SUBJECT, Decoupling
from redcloak.training.finetuning import FineTune, Latents, OptimizerName, Prior, trainable
from redcloak.training.noise_words import settle, teach

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from redcloak.api import Context, Subject
    from redcloak.backbone import Backbone

MEMORY = 0.9  # of the running loss: it looks back some ten steps


class TrainerConfig(MethodConfig):
    """Base of every trainer's configuration: the optimizer's budget, and what the photos are called."""

    steps: int = Field(1000, ge=1, description="optimizer steps")
    lr: float = Field(5e-7, gt=0, description="learning rate, constant")
    batch: int = Field(1, ge=1, description="instance pictures a step; as many class pictures beside them")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    optimizer: OptimizerName = Field(
        "adamw", description="AdamW, or the same with its moments in 8 bits: a quarter of their memory"
    )
    word_lr: float = Field(5e-4, gt=0, description="learning rate of new words' embeddings, where there are any")
    templates: tuple[str, ...] = Field(
        ("a photo of {subject}",),
        min_length=1,
        description="instance prompts, one at random for each picture; {subject} becomes e.g. 'sks person'",
    )
    report_every: int = transport(10, ge=1, description="steps between two progress reports")

    @field_validator("templates")
    @classmethod
    def _name_the_subject(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if SUBJECT not in template:
                raise ValueError(f"{template!r} does not name the subject; write {SUBJECT} where its words go")
        return templates

    def changes(self, backbone: Backbone) -> list[nn.Parameter]:
        """The parameters whose values training changes: what a loan of the backbone has to put back."""
        return backbone.trainable()

    @contextmanager
    def learning(self, backbone: Backbone, subject: Subject, generator: Generator) -> Iterator[list[nn.Parameter]]:
        """The parameters that take gradients: those that it ``changes``, or others put into the model meanwhile."""
        yield self.changes(backbone)


class PriorConfig(TrainerConfig):
    """With prior preservation: pictures of the class, drawn by the model itself, beside those of the subject."""

    prior_weight: float = Field(1.0, ge=0, description="weight of the class pictures' loss; 0 switches them off")


def fit(images: Tensor, config: TrainerConfig, context: Context, generator: Generator) -> None:
    """Train what ``config`` is ``learning``, and the backbone's new words, on instance images ``(N, 3, H, W)``.

    The loss is that of :class:`FineTune`. Goes on from ``context.checkpoint``, with the same result as if it had never
    stopped. New words for the photos' noise (``context.decoupling``) are added first, and train along. Random, from
    ``generator``: what the trainer begins with, then in each step the order of the pictures, their templates,
    posteriors, times and noise.

    Raises:
        UserError: prior preservation is on, and there are no class images.
    """
    backbone, words = context.suite.backbone, context.decoupling or NONE
    with config.learning(backbone, context.subject, generator) as parameters:
        phrases = teach(backbone, words, images, generator)
        prompts = {phrase: instance_prompts(config, context, phrase) for phrase in phrases}
        tuning = fine_tune(config, context, prompts[phrases[0]][0], parameters)
        latents = Latents.of(backbone, images)
        done, recent = _resumed(tuning, context.checkpoint.load(), generator)
        with trainable(tuning.parameters):
            for step in range(done + 1, config.steps + 1):
                photos = latents.order(config.batch, generator)
                chosen = latents.take(photos, generator)
                said = [phrases[photo] for photo in photos.tolist()]
                templates = _drawn(len(config.templates), config.batch, generator)
                loss = tuning.step(
                    chosen,
                    generator,
                    prompts=[prompts[phrase][index] for phrase, index in zip(said, templates, strict=True)],
                    class_prompts=_denied(words, said, context),
                )
                recent = loss if step == 1 else MEMORY * recent + (1 - MEMORY) * loss
                if step % config.report_every == 0 or step == config.steps:
                    context.progress(step, config.steps, {"loss": recent})
                context.checkpoint.save(partial(_state, tuning, generator, step, recent))
        settle(backbone, words, len(images))


def fine_tune(config: TrainerConfig, context: Context, prompt: str, parameters: Sequence[nn.Parameter]) -> FineTune:
    """The steps of a training."""
    return FineTune(
        context.suite.backbone,
        prompt,
        lr=config.lr,
        prior=prior(config, context),
        batch=config.batch,
        clip=config.clip,
        parameters=parameters,
        word_lr=config.word_lr,
        optimizer=config.optimizer,
    )


def instance_prompts(config: TrainerConfig, context: Context, phrase: str | None = None) -> list[str]:
    """The templates with the subject in them, and with what contrastive decoupling learning adds.

    ``phrase``: what the noise of a photo is called, where photos differ in that.
    """
    words, subject = context.decoupling or NONE, context.subject
    return [words.naming(template.replace(SUBJECT, subject.name), phrase) for template in config.templates]


def prior(config: TrainerConfig, context: Context) -> Prior | None:
    """The class images, their prompt and their weight, where the configuration wants any."""
    weight = config.prior_weight if isinstance(config, PriorConfig) else 0.0
    if not weight:
        return None
    if context.class_images is None or not len(context.class_images):
        name = type(config).__module__.rpartition(".")[2]
        raise UserError(f"{name}: prior_weight > 0 needs class images; set class_images > 0 or prior_weight=0.")
    latents = Latents.of(context.suite.backbone, context.class_images)
    return Prior(latents, (context.decoupling or NONE).prior(context.subject), weight)


def _drawn(templates: int, count: int, generator: Generator) -> list[int]:
    """Which template each of ``count`` pictures gets."""
    if templates == 1:  # nothing to draw: the stream stays that of the one template
        return [0] * count
    drawn: list[int] = torch.randint(templates, (count,), generator=generator).tolist()
    return drawn


def _denied(words: Decoupling, said: Sequence[str], context: Context) -> list[str] | None:
    """The class prompts beside photos whose noise has words of its own: each denies what the photo beside it says."""
    return [words.prior(context.subject, phrase) for phrase in said] if words.tokens == "per_image" else None


def _state(tuning: FineTune, generator: Generator, step: int, recent: float) -> dict[str, Tensor]:
    progress = torch.tensor([step, recent], dtype=torch.float64)
    return {"progress": progress, **tuning.state(generator)}


def _resumed(tuning: FineTune, state: Mapping[str, Tensor], generator: Generator) -> tuple[int, float]:
    if not state:
        return 0, 0.0
    tuning.load(state, generator)
    step, recent = state["progress"].tolist()
    return int(step), recent
