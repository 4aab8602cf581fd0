"""Textual inversion: learn one word for the subject, and change nothing else of the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field
from torch import Generator, Tensor, nn

from redcloak.api import Context, Method, Subject
from redcloak.backbone import Backbone
from redcloak.training.fitting import TrainerConfig, fit
from redcloak.training.vocabulary import add_words

METHOD = Method(
    title="Textual inversion",
    cite="Gal et al., An Image is Worth One Word, ICLR 2023.",
    stochastic=True,
    needs=("backbone",),
)


class Config(TrainerConfig):
    """The optimizer's budget. Defaults: steps and rate of diffusers' example, unscaled; the paper's rate is 0.005."""

    steps: int = Field(3000, ge=1, description="optimizer steps")
    lr: float = Field(5e-4, gt=0, description="learning rate of the word's embedding, constant")
    batch: int = Field(4, ge=1, description="instance pictures a step")
    begin: str = Field("", description="the text whose embedding the word begins with; empty: the class noun")

    def changes(self, backbone: Backbone) -> list[nn.Parameter]:
        """Nothing that is there: a word is added."""
        return []

    @contextmanager
    def learning(self, backbone: Backbone, subject: Subject, generator: Generator) -> Iterator[list[nn.Parameter]]:
        """The word's embedding."""
        yield [add_words(backbone, {subject.identifier: self.begin or subject.class_noun})]


def textual_inversion(images: Tensor, config: Config, context: Context, generator: Generator) -> None:
    """Make the identifier a word of its own, and train its embedding on instance images ``(N, 3, H, W)`` in [0, 1].

    Loss: the denoising loss of the instance pictures under the instance prompt, all weights frozen. The word begins as
    the class noun (the mean of its tokens). The saved tokenizer knows the word, so that prompts stay what they are for
    the other trainers. Random, from ``generator``: the order of the pictures, their posteriors, steps and noise.

    Cite: Gal et al., ICLR 2023, equation 2. License: Apache-2.0.
    """
    fit(images, config, context, generator)
