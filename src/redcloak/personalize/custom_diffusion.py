"""Custom Diffusion: train the keys and values of the cross-attention, and a new word for the subject."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field
from torch import Generator, Tensor, nn

from redcloak.api import Context, Method, Subject
from redcloak.backbone import Backbone
from redcloak.training.fitting import PriorConfig, fit
from redcloak.training.vocabulary import add_words

METHOD = Method(
    title="Custom Diffusion",
    cite="Kumari et al., Multi-Concept Customization of Text-to-Image Diffusion, CVPR 2023.",
    stochastic=True,
    needs=("backbone",),
)
ENDS = (".attn2.to_k.weight", ".attn2.to_v.weight")


class Config(PriorConfig):
    """The optimizer's budget. Defaults: the paper's, of one subject: 250 steps of batch 8 at 1e-5 times 8."""

    steps: int = Field(250, ge=1, description="optimizer steps")
    lr: float = Field(8e-5, gt=0, description="learning rate of the projections and the word, constant")
    batch: int = Field(8, ge=1, description="instance pictures a step; as many class pictures beside them")
    new_word: bool = Field(True, description="make the identifier a word of its own, and train it too")
    begin: str = Field("", description="the text whose embedding the word begins with; empty: the identifier's own")

    def changes(self, backbone: Backbone) -> list[nn.Parameter]:
        """The projections of the text to keys and values."""
        return [value for name, value in backbone.unet.named_parameters() if name.endswith(ENDS)]

    @contextmanager
    def learning(self, backbone: Backbone, subject: Subject, generator: Generator) -> Iterator[list[nn.Parameter]]:
        """The projections, and the word's embedding."""
        word = subject.identifier
        rows = [add_words(backbone, {word: self.begin or word})] if self.new_word else []
        yield [*self.changes(backbone), *rows]


def custom_diffusion(images: Tensor, config: Config, context: Context, generator: Generator) -> None:
    """Train how the text becomes keys and values, on instance images ``(N, 3, H, W)`` in [0, 1].

    Loss: DreamBooth's, with class images of the model's own (the paper takes real ones, and resizes the instance
    pictures at random; neither is done here). The new word begins as the rare token that the identifier was. Random,
    from ``generator``: the order of the pictures, their posteriors, steps and noise.

    Cite: Kumari et al., CVPR 2023, section 3.2. License: Apache-2.0.
    """
    fit(images, config, context, generator)
