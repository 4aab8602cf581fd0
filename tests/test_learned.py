"""What a personalized model learned: concepts, attention and the curve, on a suite of random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from redcloak import suite as suites
from redcloak.api import Context, Subject
from redcloak.backbone import Backbone
from redcloak.cli import main
from redcloak.concepts import prompts
from redcloak.config import AuditConfig, Choice
from redcloak.diagnose.curve import Course, courses, curve
from redcloak.diagnose.figures import heat
from redcloak.diagnose.learned import attention, estimates, map_side, positions, scorer
from redcloak.errors import UserError
from redcloak.generate import Sampling, generate
from redcloak.images import save_images
from redcloak.prompts import Decoupling
from redcloak.suite import Suite

PROMPT = "a photo of sks person, bhj noisy pattern"
FAST = Sampling(2, 2.0)


@pytest.fixture
def config() -> AuditConfig:
    return AuditConfig(photos="", images_per_prompt=2, sampling_steps=2, guidance=2.0, red_team=(Choice(name="jpeg"),))


def test_words_are_found_where_they_stand(backbone: Backbone):
    tokenizer = backbone.tokenizer
    whole = tokenizer(PROMPT).input_ids
    for word in ("sks", "person", "bhj noisy pattern"):
        place = positions(tokenizer, PROMPT, word)
        assert tokenizer.decode([whole[index] for index in place]).split() == word.split()
    assert positions(tokenizer, PROMPT, "dog") == []
    assert positions(tokenizer, PROMPT, "") == []


@pytest.mark.parametrize("sampling", [FAST, Sampling(2, 1.0)])
def test_attention_is_that_of_the_unet(sampling: Sampling, backbone: Backbone):
    """The oracle: the probabilities of one cross-attention layer, computed by hand on the way."""
    words = ["sks", "bhj noisy pattern", "dog"]
    found = {one.word: one for one in attention(backbone, PROMPT, words, 2, 0, sampling)}
    side = map_side(backbone)
    assert side == 8
    assert list(found) == words[:2]
    seen: list[Tensor] = []

    def watch(layer: torch.nn.Module, args: tuple[Tensor, ...], more: dict[str, Tensor]) -> None:
        states, text = args[0], more["encoder_hidden_states"]
        if states.shape[1] == side**2:
            query, key = (
                part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in (layer.to_q(states), layer.to_k(text))
            )
            seen.append((query @ key.transpose(-1, -2) * layer.scale).softmax(-1).mean(1))

    layers = [layer for name, layer in backbone.unet.named_modules() if name.endswith("attn2")]
    hooks = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in layers]
    generate(backbone, [PROMPT], 2, 0, sampling)
    for hook in hooks:
        hook.remove()
    expected = torch.stack([layer[-2:] for layer in seen]).mean((0, 1))  # the second half, if any, is under the prompt
    for word, one in found.items():
        wanted = expected[:, positions(backbone.tokenizer, PROMPT, word)].sum(-1)
        assert torch.allclose(one.map.flatten(), wanted, atol=1e-5)
        assert one.share == pytest.approx(float(wanted.mean()), abs=1e-5)


def test_maps_are_as_coarse_as_the_layers_that_look(backbone: Backbone):
    def side(size: int, *kinds: str) -> int:
        config = SimpleNamespace(sample_size=size, down_block_types=kinds)
        return map_side(SimpleNamespace(unet=SimpleNamespace(config=config)))

    cross = "CrossAttnDownBlock2D"
    assert side(64, cross, cross, cross, "DownBlock2D") == 16  # Stable Diffusion
    assert side(16, "DownBlock2D", cross, cross) == 8  # the small suite
    assert side(128, cross, "DownBlock2D") == 128


def test_scores_of_drawn_pictures(suite: Suite, photos: Tensor, monkeypatch: pytest.MonkeyPatch):
    context = Context(suite, reference=photos)
    found = scorer(context)(photos)
    assert list(found) == ["class_mass", "quality", "identity_zero", "face_found"]
    assert (found["identity_zero"] > 0.5).all()
    nobody = scorer(replace(context, reference=torch.zeros(1, 3, 64, 64)))(photos)
    assert list(nobody) == ["class_mass", "quality"]
    monkeypatch.setattr(suite, "spec", suite.spec.model_copy(update={"quality": None, "clip": None}))
    assert list(scorer(context)(photos)) == ["identity_zero", "face_found"]
    assert estimates({"a": torch.tensor([1.0, 3.0])})["a"].estimate == 2


def test_the_arms_of_the_curve(photos: Tensor, context: Context, config: AuditConfig):
    other = photos.roll(1, -1)
    clean, protected, cdl, cured = courses(photos, other, config, context)
    assert [arm.name for arm in (clean, protected, cdl, cured)] == ["clean", "protected", "CDL", "jpeg + CDL"]
    assert torch.equal(clean.images, photos)
    assert torch.equal(cdl.images, other)
    assert not torch.equal(cured.images, other)
    assert [arm.decoupling.train_suffix for arm in (clean, protected, cdl, cured)] == [False, False, True, True]


def test_the_curve_draws_what_the_model_is_at_each_step(
    photos: Tensor, context: Context, config: AuditConfig, backbone: Backbone
):
    arm = Course("clean", photos)
    context = replace(context, reference=photos)
    found = list(curve([arm], config, context, 8, lambda label: lambda *_: None))
    assert [step for _, step, _ in found] == [0, 2, 4, 6, 8]
    shorter = list(curve([arm], config, context, 4, lambda label: lambda *_: None))
    for step in (0, 2, 4):  # training is the same whether it goes on afterwards or not
        long, short = (next(scores for _, at, scores in points if at == step) for points in (found, shorter))
        assert long == short
    start, _ = generate(backbone, ["a photo of sks person"], 2, 0, Sampling(2, 2.0))
    assert found[0][2]["class_mass"].estimate == pytest.approx(float(scorer(context)(start)["class_mass"].mean()))
    assert len({scores["quality"].estimate for _, _, scores in found}) == 5


def test_the_verb_shows_what_was_learned(suite_folder: Path, photos: Tensor, tmp_path: Path, capsys):
    save_images(tmp_path / "clean", photos)
    save_images(tmp_path / "protected", (photos + 0.04).clamp(0, 1))
    given = ["diagnose", tmp_path / "protected", "--clean", tmp_path / "clean", "--suite", suite_folder]
    few = ["--purify", "", "--control", "", "--map", "", "--set", "class_images=2", "--set", "sampling_steps=2"]
    small = ["--set", "images_per_prompt=2", "--set", "red_team=jpeg", "--set", "dreambooth.batch=1"]
    learned = ["--model", suite_folder, "--curve", "2", "--out", tmp_path / "out"]
    assert main([str(part) for part in [*given, *few, *small, *learned]]) == 0
    found = json.loads((tmp_path / "out" / "diagnose.json").read_text())
    assert len(found["extracts"]) == 6
    assert {one["name"]: one["prompt"] for one in found["extracts"]}["the subject, noise named"] == PROMPT
    assert [one["word"] for one in found["attention"]] == ["sks", "person", "bhj noisy pattern"]
    assert [(one["arm"], one["step"]) for one in found["curve"]] == [
        (arm, step) for arm in ("clean", "protected", "CDL", "jpeg + CDL") for step in (0, 1, 2)
    ]
    page = (tmp_path / "out" / "diagnose.html").read_text()
    assert page.count('<section aria-labelledby="learned">') == page.count('<section aria-labelledby="curve">') == 1
    assert page.count("data:image/png;base64,") == 2 * 3 + 6 * 2 + 3
    shown = capsys.readouterr().out
    assert "what the models draw" in shown
    assert "while they train" in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "nowhere"], "unknown model 'nowhere'"),
        (["--curve", "4", "--size", "32"], "leave --size out"),
        (["--curve", "4", "--set", "trainer=dreamboot"], "did you mean 'dreambooth'"),
    ],
)
def test_a_mistake_costs_no_work(more, message, suite_folder: Path, photos: Tensor, tmp_path: Path, capsys):
    save_images(tmp_path / "clean", photos)
    given = ["diagnose", tmp_path / "clean", "--clean", tmp_path / "clean", "--suite", suite_folder]
    assert main([str(part) for part in [*given, "--out", tmp_path / "out", *more]]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_curve_of_one_photo(suite_folder: Path, photos: Tensor, tmp_path: Path, capsys):
    save_images(tmp_path / "clean", photos[:1])
    given = ["diagnose", tmp_path / "clean", "--clean", tmp_path / "clean", "--suite", suite_folder, "--curve", "4"]
    assert main([str(part) for part in [*given, "--out", tmp_path / "out"]]) == 2
    assert "--curve: one photo; DreamBooth needs at least 2" in capsys.readouterr().err


def test_a_trainer_that_does_not_report(photos: Tensor, context: Context, config: AuditConfig, monkeypatch):
    entry = SimpleNamespace(name="silent", configure=lambda **_: None, function=lambda *_: None)
    monkeypatch.setattr("redcloak.diagnose.curve.registry.load", lambda *_: entry)
    monkeypatch.setattr("redcloak.diagnose.curve.scorer", lambda _: lambda images: {"n": images.mean((1, 2, 3))})
    with pytest.raises(UserError, match="silent does not report"):
        list(curve([Course("clean", photos)], config, context, 2, lambda label: lambda *_: None))


def test_heat_is_a_picture():
    assert heat([[0.0, 0.5], [1.0, 0.0]]).startswith("data:image/png;base64,")
    assert heat([[0.0, 0.0], [0.0, 0.0]]).startswith("data:image/png;base64,")


def test_the_small_suite_knows_what_noise_looks_like():
    """On trained weights: asked for the noise token, the model draws what its CLIP takes for noise."""
    suite = suites.load("tiny")
    asked = prompts(Subject(), Decoupling())
    texts = [asked["class_noun"], asked["noise_token"]]
    pictures, _ = generate(suite.backbone, texts, 3, 0, Sampling(8, suite.spec.guidance))
    person, noise = scorer(Context(suite))(pictures)["class_mass"].split(3)
    assert person.mean() > noise.mean() + 0.2
