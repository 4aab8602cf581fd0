"""New words for the noise: which photo says which, what they begin as, and what is left when training is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import checksum
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from redcloak import registry
from redcloak.api import Context
from redcloak.backbone import Backbone
from redcloak.errors import UserError
from redcloak.images import to_tensor
from redcloak.portraits import subject
from redcloak.prompts import Decoupling
from redcloak.purify.gaussian import blur
from redcloak.rng import generator
from redcloak.training.noise_words import kinds, settle, spectra, teach
from redcloak.training.vocabulary import restored


@pytest.fixture(scope="module")
def mixed() -> Tensor:
    """Six photos: the even ones with fine noise, the odd ones with the same noise made coarse."""
    clean = to_tensor(subject(3, shots=6))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    coarse = blur(noise + 0.5, 2.0) - 0.5
    noise[1::2] = (coarse / coarse.std() * 0.1)[1::2]
    return (clean + noise).clamp(0, 1)


def test_clusters_are_kinds_of_noise_and_not_of_pictures(mixed: Tensor):
    for seed in range(5):
        assert kinds(mixed, 2, torch.Generator().manual_seed(seed)) == [0, 1, 0, 1, 0, 1]


def test_clusters_follow_the_photos_and_the_seed(mixed: Tensor):
    four = kinds(mixed, 4, generator(0, "k"))
    assert sorted(set(four)) == [0, 1, 2, 3]
    assert four == kinds(mixed, 4, generator(0, "k"))
    assert kinds(mixed, 1, generator(0, "k")) == [0] * 6


def test_clusters_draw_nothing_of_the_stream_that_training_draws_from(mixed: Tensor):
    """So that an arm with clusters trains on the photos, steps and noise of the arms that it is compared with."""
    stream, untouched = generator(0, "k"), generator(0, "k")
    kinds(mixed, 2, stream)
    assert torch.equal(torch.rand(3, generator=stream), torch.rand(3, generator=untouched))


def test_a_shifted_pattern_is_the_same_kind(mixed: Tensor):
    """The spectrum of a periodic picture does not change where it starts."""
    tile = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).repeat(1, 1, 4, 4)
    inner = spectra(tile)
    assert inner.shape == (1, 18)
    assert torch.allclose(inner, spectra(tile.roll((16, 32), (2, 3))), atol=1e-5)
    assert (spectra(mixed[:1]) - spectra(mixed[1:2])).abs().max() > 1


def test_the_power_of_white_noise_is_flat_but_for_what_the_filter_takes():
    """Residual = x - G x: in the ring around frequency f the power is (1 - exp(-2 pi^2 s^2 f^2))^2 of the noise's."""
    white = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(2)) * 0.02 + 0.5
    power = spectra(white, bands=8)[0].exp().view(3, 8).mean(0)
    centres = (torch.arange(8) + 0.5) / 16
    wanted = 0.02**2 * (1 - torch.exp(-2 * torch.pi**2 * 1.1**2 * centres**2)) ** 2
    assert torch.allclose(power[2:7], wanted[2:7], rtol=0.1)


def test_more_clusters_than_photos_or_kinds(mixed: Tensor):
    with pytest.raises(UserError, match="count = 4: more clusters than the 3 photos"):
        kinds(mixed[:3], 4, generator(0, "k"))
    with pytest.raises(UserError, match="count = 2: the photos' residuals are of fewer kinds"):
        kinds(mixed[:1].expand(4, -1, -1, -1), 2, generator(0, "k"))


SAID = {
    ("text", 1): ["bhj noisy pattern"] * 6,
    ("shared", 1): ["<noise-1>"] * 6,
    ("shared", 4): ["<noise-1> <noise-2> <noise-3> <noise-4>"] * 6,
    ("per_image", 2): [f"<noise-{photo}-1> <noise-{photo}-2>" for photo in range(1, 7)],
    ("clusters", 2): ["<noise-1>", "<noise-2>"] * 3,
}


@pytest.mark.parametrize(("tokens", "count"), SAID)
def test_each_way_names_the_noise_of_each_photo(tokens: str, count: int, backbone: Backbone, mixed: Tensor):
    words = Decoupling(tokens=tokens, count=count)
    size, before = len(backbone.tokenizer), backbone.embed(["a photo of bhj noisy pattern"])
    with restored(backbone):
        phrases = teach(backbone, words, mixed, generator(0, "k"))
        assert list(phrases) == SAID[tokens, count]
        new = {word for phrase in phrases for word in phrase.split() if "<" in word}
        assert len(backbone.tokenizer) == size + len(new)
        for phrase in set(phrases):
            assert len(backbone.tokenizer(phrase, add_special_tokens=False).input_ids) == len(
                phrase.split() if new else backbone.tokenizer.tokenize(phrase)
            )
        table = backbone.text_encoder.get_input_embeddings().weight
        text = backbone.tokenizer("bhj noisy pattern", add_special_tokens=False).input_ids
        assert torch.allclose(table[size:], table[text].mean(0).expand(len(new), -1), atol=1e-6)
        settle(backbone, words, len(mixed))
        assert all(word in backbone.tokenizer.get_vocab() for word in words.words)
    assert torch.equal(backbone.embed(["a photo of bhj noisy pattern"]), before)


def test_what_sampling_denies_of_words_of_their_own_are_their_means(backbone: Backbone, mixed: Tensor):
    words = Decoupling(tokens="per_image", count=2)
    with restored(backbone):
        teach(backbone, words, mixed, generator(0, "k"))
        rows = backbone.text_encoder.get_input_embeddings().added.weight
        with torch.no_grad():
            rows += torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
        settle(backbone, words, len(mixed))
        means = backbone.text_encoder.get_input_embeddings().added.weight
        assert torch.allclose(means, rows.view(6, 2, -1).mean(0), atol=1e-6)


@pytest.mark.parametrize("name", registry.names("personalize"))
@pytest.mark.parametrize("tokens", ["shared", "per_image"])
def test_every_trainer_saves_the_words(name: str, tokens: str, context: Context, photos: Tensor, tmp_path: Path):
    """And plain transformers reads them back: each is one token, whose embedding has moved from where it began."""
    entry, words = registry.load("personalize", name), Decoupling(tokens=tokens, count=2)
    config = entry.configure(steps=3, lr=1e-4, word_lr=1e-2, batch=1)
    backbone = context.suite.backbone
    before = checksum(backbone)
    with backbone.borrowed(config.changes(backbone)):
        entry.function(photos, config, replace(context, decoupling=words), generator(0, name))
        backbone.save(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    saved = [tokenizer(word, add_special_tokens=False).input_ids for word in words.words]
    assert all(len(tokens) == 1 for tokens in saved)
    table = CLIPTextModel.from_pretrained(tmp_path / "text_encoder").get_input_embeddings().weight
    begun = table[backbone.tokenizer("bhj noisy pattern", add_special_tokens=False).input_ids].mean(0)
    assert all((table[token] - begun).abs().max() > 5e-3 for token in saved)
    assert checksum(backbone) == before
