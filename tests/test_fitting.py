"""The loop that trainers share: whose loss it is, what it calls the photos, and which words it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from redcloak.api import Context, NoCheckpoint
from redcloak.backbone import Backbone
from redcloak.errors import UserError
from redcloak.prompts import Decoupling
from redcloak.registry import load
from redcloak.rng import generator
from redcloak.training.finetuning import FineTune, Latents
from redcloak.training.fitting import instance_prompts
from redcloak.training.vocabulary import add_words

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
        patch.setattr(FineTune, "step", lambda *a, **k: asked.append(tuple(k["prompts"])) or step(*a, **k))
        DREAMBOOTH.function(photos, config, context, generator(0, "d"))
    assert {len(prompts) for prompts in asked} == {3}
    flat = [prompt for prompts in asked for prompt in prompts]
    assert 6 < flat.count("sks person") < 18
    assert any(len(set(prompts)) == 2 for prompts in asked)


@pytest.mark.parametrize("tokens", ["shared", "per_image", "clusters"])
def test_the_noise_of_each_photo_is_said_in_its_own_words(
    tokens: str, photos: Tensor, context: Context, backbone: Backbone
):
    """Every prompt of a step names the photo's words, the class prompt beside it denies them, and they train."""
    words = Decoupling(tokens=tokens, count=2)
    rows: list[tuple[list[str], list[str]]] = []
    step = FineTune.step

    def follow(self, latents, generator, classes=None, prompts=None, class_prompts=None):
        rows.append((list(prompts), list(class_prompts or [self.prior.prompt] * len(prompts))))
        return step(self, latents, generator, classes, prompts, class_prompts)

    config = DREAMBOOTH.configure(steps=6, lr=1e-9, word_lr=1e-2, batch=2)
    with backbone.borrowed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineTune, "step", follow)
        DREAMBOOTH.function(photos, config, replace(context, decoupling=words), generator(0, "d"))
        vocabulary = backbone.tokenizer.get_vocab()
        assert set(words.words) <= vocabulary.keys()
        table = backbone.text_encoder.get_input_embeddings().weight
        begun = table[backbone.tokenizer("bhj noisy pattern", add_special_tokens=False).input_ids].mean(0)
        assert all((table[vocabulary[word]] - begun).abs().max() > 1e-2 for word in words.words)
        drawn = backbone.sample([words.sampling("a photo of sks person")], [generator(0, "g")], steps=2)
    assert drawn.isfinite().all()
    said = {prompt.removeprefix("a photo of sks person, ") for prompts, _ in rows for prompt in prompts}
    wanted = {
        "shared": {"<noise-1> <noise-2>"},
        "per_image": {f"<noise-{photo}-1> <noise-{photo}-2>" for photo in (1, 2, 3)},
        "clusters": {"<noise-1>", "<noise-2>"},
    }
    assert said == wanted[tokens]
    for prompts, beside in rows:
        own = [prompt.removeprefix("a photo of sks person, ") for prompt in prompts]
        denied = own if tokens == "per_image" else ["<noise-1> <noise-2>"] * 2
        assert beside == [f"a photo of person, without {phrase}" for phrase in denied]


class Kept(NoCheckpoint):
    """A checkpoint in memory, of every step."""

    state: dict[str, Tensor] = {}  # noqa: RUF012 - replaced, never changed

    def load(self) -> dict[str, Tensor]:
        return self.state

    def save(self, state: Callable[[], dict[str, Tensor]]) -> None:
        self.state = {name: value.clone() for name, value in state().items()}


def test_words_for_the_noise_survive_a_kill(photos: Tensor, context: Context, backbone: Backbone):
    """After three steps of six and a fresh start, the weights and words of a run that never stopped."""
    words = Decoupling(tokens="clusters", count=2)

    def run(steps: int, checkpoint: object) -> Tensor:
        config = DREAMBOOTH.configure(steps=steps, lr=1e-3, batch=1)
        with backbone.borrowed():
            lent = replace(context, decoupling=words, checkpoint=checkpoint)
            DREAMBOOTH.function(photos, config, lent, generator(0, "d"))
            return backbone.text_encoder.get_input_embeddings().weight.detach().clone()

    whole = run(6, NoCheckpoint())
    kept = Kept()
    assert not torch.equal(run(3, kept), whole)
    assert torch.equal(run(6, kept), whole)
