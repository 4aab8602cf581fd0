"""The loop that trainers share: whose loss it is, what it calls the photos, and which words it trains."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from redcloak.api import Context
from redcloak.backbone import Backbone
from redcloak.errors import UserError
from redcloak.fitting import instance_prompts
from redcloak.prompts import Decoupling
from redcloak.registry import load
from redcloak.rng import generator
from redcloak.training import FineTune, Latents
from redcloak.vocabulary import add_words

DREAMBOOTH = load("personalize", "dreambooth")


def test_the_loop_is_so_many_steps_of_the_textbook(photos: Tensor, context: Context, backbone: Backbone):
    """Without the loop: the same draws, one by one; and the running loss by its formula."""
    config = DREAMBOOTH.configure(steps=4, lr=1e-3, batch=2, prior_weight=0, report_every=1)
    told: list[float] = []
    lent = replace(context, progress=lambda done, total, values: told.append(values["loss"]))
    with backbone.borrowed() as parameters:
        DREAMBOOTH.function(photos, config, lent, generator(0, "d"))
        looped = [value.clone() for value in parameters]
    with backbone.borrowed() as parameters:
        tuning, draws, losses = FineTune(backbone, "a photo of sks person", lr=1e-3, batch=2), generator(0, "d"), []
        latents = Latents.of(backbone, photos)
        for parameter in parameters:
            parameter.requires_grad_(True)
        for _ in range(4):
            losses.append(tuning.step(latents.draw(2, draws), draws))
        assert all(torch.equal(*pair) for pair in zip(looped, parameters, strict=True))
    running = losses[0]
    for loss, value in zip(losses, told, strict=True):
        running = 0.9 * running + 0.1 * loss
        assert value == pytest.approx(running)


def test_the_words_that_were_added_train_at_their_own_rate(photos: Tensor, context: Context, backbone: Backbone):
    """The prompt is embedded anew in each step, and the class prompt, which has no new word, once for all."""
    spoken: list[list[str]] = []
    config = DREAMBOOTH.configure(steps=3, lr=1e-9, word_lr=1e-2, batch=2, text_encoder=False)
    with backbone.borrowed(), pytest.MonkeyPatch.context() as patch:
        rows = add_words(backbone, {"<noise-1>": "pattern"})
        begun, embed = rows.detach().clone(), Backbone.embed
        patch.setattr(Backbone, "embed", lambda self, prompts: spoken.append(list(prompts)) or embed(self, prompts))
        lent = replace(context, decoupling=Decoupling(noise_token="<noise-1>"))
        DREAMBOOTH.function(photos, config, lent, generator(0, "d"))
        assert (rows - begun).abs().max() > 1e-2
        assert not rows.requires_grad
    assert [len(prompts) for prompts in spoken] == [2, 2, 2], "both prompts have the word"
    spoken.clear()
    with backbone.borrowed(), pytest.MonkeyPatch.context() as patch:
        add_words(backbone, {"sks": "person"})
        patch.setattr(Backbone, "embed", lambda self, prompts: spoken.append(list(prompts)) or embed(self, prompts))
        DREAMBOOTH.function(photos, config, context, generator(0, "d"))
    assert spoken == [["a photo of person"], *([["a photo of sks person"]] * 3)]


def test_templates_name_the_subject_and_keep_what_decoupling_adds(photos: Tensor, context: Context):
    config = DREAMBOOTH.configure(templates=("a photo of {subject}", "{subject} smiling"))
    assert instance_prompts(config, context) == ["a photo of sks person", "sks person smiling"]
    decoupled = instance_prompts(config, replace(context, decoupling=Decoupling()))
    assert decoupled == ["a photo of sks person, bhj noisy pattern", "sks person smiling, bhj noisy pattern"]
    with pytest.raises(UserError, match=r"'a person' does not name the subject; write \{subject\}"):
        DREAMBOOTH.configure(templates=("a photo of {subject}", "a person"))


def test_each_picture_gets_a_template_of_its_own(photos: Tensor, context: Context, backbone: Backbone):
    asked: list[tuple[str, ...]] = []
    step = FineTune.step
    config = DREAMBOOTH.configure(steps=8, batch=3, templates=("{subject}", "{subject} smiling"), prior_weight=0)
    with backbone.borrowed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineTune, "step", lambda *a, prompts: asked.append(tuple(prompts)) or step(*a, prompts=prompts))
        DREAMBOOTH.function(photos, config, context, generator(0, "d"))
    assert {len(prompts) for prompts in asked} == {3}
    flat = [prompt for prompts in asked for prompt in prompts]
    assert 6 < flat.count("sks person") < 18
    assert any(len(set(prompts)) == 2 for prompts in asked)
