"""New words: what trains, what stays, what plain diffusers reads, and that nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import checksum
from diffusers import StableDiffusionPipeline
from torch import Tensor

from redcloak.api import Machine
from redcloak.backbone import Backbone
from redcloak.errors import UserError
from redcloak.rng import generators, randn
from redcloak.suite import Suite
from redcloak.training.vocabulary import add_words, new_words, restored

PROMPT = "a photo of sks person, without <noise-1> pattern"
WORDS = {"sks": "person", "<noise-1>": "noisy pattern"}


def table(backbone: Backbone) -> Tensor:
    return backbone.text_encoder.get_input_embeddings().weight.detach()


def trained(backbone: Backbone, words: dict[str, str], prompt: str = PROMPT) -> torch.nn.Parameter:
    """Words, moved by three steps of an optimizer on the prompt's embedding."""
    rows = add_words(backbone, words).requires_grad_(True)
    optimizer = torch.optim.AdamW([rows], lr=0.1)
    for _ in range(3):
        backbone.embed([prompt]).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return rows


def test_a_word_begins_as_the_mean_of_its_text(backbone: Backbone):
    old, plain = table(backbone), backbone.embed(["a photo of person person"])
    pattern = backbone.tokenizer("noisy pattern", add_special_tokens=False).input_ids
    with restored(backbone):
        rows = add_words(backbone, WORDS)
        person = backbone.tokenizer("person", add_special_tokens=False).input_ids
        assert torch.equal(rows, torch.stack([old[person].mean(0), old[pattern].mean(0)]))
        assert torch.equal(backbone.embed(["a photo of sks person"]), plain)


def test_only_the_new_rows_move(backbone: Backbone):
    old, before = table(backbone).clone(), checksum(backbone)
    begun = backbone.embed(["a photo of person"])
    with restored(backbone):
        rows = trained(backbone, WORDS)
        after = table(backbone)
        assert len(after) == len(old) + 2
        assert torch.equal(after[: len(old)].view(torch.int32), old.view(torch.int32)), "old rows to the bit"
        assert torch.equal(after[len(old) :], rows)
        assert not torch.equal(rows[0], old[backbone.tokenizer("person").input_ids[1]])
        assert torch.equal(backbone.embed(["a photo of person"]), begun)
    assert checksum(backbone) == before


def test_a_word_is_one_token_where_it_stands_alone(backbone: Backbone):
    with restored(backbone):
        add_words(backbone, WORDS)
        start, tokenize = len(backbone.tokenizer) - 2, backbone.tokenizer
        assert [token for token in tokenize(PROMPT).input_ids if token >= start] == [start, start + 1]
        assert not any(token >= start for token in tokenize("asks a sksman").input_ids)


def test_words_are_added_to_words(backbone: Backbone):
    both = {}
    for turn in ("once", "twice"):
        with restored(backbone):
            parts = [WORDS] if turn == "once" else [{word: text} for word, text in WORDS.items()]
            rows = [add_words(backbone, part) for part in parts]
            with torch.no_grad():
                for offset, part in enumerate(rows):
                    part += torch.arange(offset + 1, offset + 1 + len(part)).view(-1, 1)
            state = backbone.text_encoder.state_dict()
            both[turn] = (backbone.embed([PROMPT]), next(v for k, v in state.items() if "token_embedding" in k))
            assert sum("token_embedding" in name for name in state) == 1
    assert torch.equal(both["once"][0], both["twice"][0])
    assert torch.equal(both["once"][1], both["twice"][1])


def test_plain_diffusers_reads_the_words(backbone: Backbone, tmp_path: Path):
    latents = randn(torch.empty(1, 4, 16, 16), generators(3, "g", 1))
    with backbone.borrowed():
        trained(backbone, WORDS)
        backbone.save(tmp_path / "model")
        drawn = backbone.sample([PROMPT], generators(3, "g", 1), steps=4, guidance=4.0)
        embedded = backbone.embed([PROMPT])
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    again = Backbone.load(tmp_path / "model")
    assert len(pipeline.tokenizer) == len(backbone.tokenizer) + 2 == pipeline.text_encoder.config.vocab_size
    assert torch.allclose(again.embed([PROMPT]), embedded, atol=5e-3), "more than half precision loses"
    assert not torch.allclose(backbone.embed([PROMPT]), embedded, atol=5e-2), "the words say something"
    theirs = pipeline([PROMPT], num_inference_steps=4, guidance_scale=4.0, latents=latents, output_type="pt").images
    assert torch.allclose(theirs, drawn, atol=2e-2)


@pytest.mark.parametrize("fails", [False, True])
def test_a_loan_takes_the_words_back(fails: bool, backbone: Backbone):
    before, tokenizer, size = checksum(backbone), backbone.tokenizer, backbone.text_encoder.config.vocab_size

    def lend() -> None:
        with backbone.borrowed(text_encoder=False):
            trained(backbone, WORDS)
            if fails:
                raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            lend()
    else:
        lend()
    assert backbone.tokenizer is tokenizer
    assert len(tokenizer) == size == backbone.text_encoder.config.vocab_size == len(table(backbone))
    assert type(backbone.text_encoder.get_input_embeddings()) is torch.nn.Embedding
    assert checksum(backbone) == before


def test_which_prompts_have_a_new_word(backbone: Backbone):
    assert not new_words(backbone, PROMPT)
    with restored(backbone):
        add_words(backbone, {"sks": "person"})
        add_words(backbone, {"<noise-1>": "noise"})
        found = [new_words(backbone, prompt) for prompt in (PROMPT, "a sks", "a <noise-1>", "a person", "")]
    assert found == [True, True, True, False, False]


def test_in_half_precision_the_rows_train_in_full(suite: Suite):
    half = Suite(suite.folder, Machine(precision="bf16")).backbone
    plain = half.embed(["a photo of person person"])
    with restored(half):
        rows = add_words(half, {"sks": "person"}).requires_grad_(True)
        assert rows.dtype == torch.float32
        assert torch.equal(half.embed(["a photo of sks person"]), plain)
        half.embed([PROMPT]).sum().backward()
        assert rows.grad is not None
        assert rows.grad.dtype == torch.float32
        assert rows.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"two words": "person"}, "new word 'two words': it must be one word without spaces"),
        ({"": "person"}, "new word '': it must be one word"),
        ({"<|endoftext|>": "person"}, "new word '<|endoftext|>': the tokenizer has such a token already"),
        ({"sks": ""}, "new word 'sks': the text '' that it begins with has no tokens"),
    ],
)
def test_a_word_that_cannot_be_is_refused(words: dict[str, str], message: str, backbone: Backbone):
    tokenizer = backbone.tokenizer
    with pytest.raises(UserError) as raised:
        add_words(backbone, words)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert backbone.tokenizer is tokenizer
