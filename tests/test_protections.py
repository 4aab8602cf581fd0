"""Each protection against its own definition; what all of them promise is in test_contract.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import checksum
from PIL import Image
from torch import Tensor

from redcloak.api import Context
from redcloak.backbone import Backbone
from redcloak.crafting.ascent import Diverged
from redcloak.crafting.attention import recorded
from redcloak.crafting.objectives import (
    encoder_error,
    one_by_one,
    predicted_target,
    score_distillation,
    value_and_gradient,
)
from redcloak.crafting.surrogate import Surrogate, SurrogateConfig, stream_of
from redcloak.crafting.targets import target_image
from redcloak.crafting.transforms import blur_each, flip_and_blur
from redcloak.errors import UserError
from redcloak.protect.shuffled import shuffle_phases
from redcloak.registry import load
from redcloak.rng import generators, randint, randn

SURROGATE = {"lr": 3e-3, "batch": 1}


def protect(name: str, images: Tensor, context: Context, seed: int = 0, **settings) -> Tensor:
    entry = load("protect", name)
    return entry.function(images, entry.configure(**settings), context, generators(seed, "p", len(images)))


def test_score_distillation_is_the_encoder_s_jacobian_on_the_noise_error(photos: Tensor, context: Context):
    backbone, prompt, image = context.suite.backbone, "a photo of person", photos[:1]
    _, gradient = value_and_gradient(score_distillation(backbone, prompt), image, generators(0, "x", 1))
    streams = generators(0, "x", 1)
    leaf = image.clone().requires_grad_(True)
    latents = backbone.encode(leaf, streams)
    times = randint(1000, streams)
    noise = randn(latents, streams)
    with torch.no_grad():
        noisy, _ = backbone.noised(latents, noise, times)
        error = backbone.unet(noisy, times, backbone.embed([prompt])).sample - noise
    expected = torch.autograd.grad(latents, leaf, error / latents[0].numel())[0]
    assert torch.allclose(gradient, expected, atol=1e-7)


def test_the_predicted_noise_is_the_same_in_both_parametrisations(photos: Tensor, context: Context):
    from diffusers import DDIMScheduler

    backbone = context.suite.backbone
    velocity = replace(
        backbone, scheduler=DDIMScheduler.from_config(backbone.scheduler.config, prediction_type="v_prediction")
    )
    latents = backbone.encode(photos)
    noise, times, words = torch.randn_like(latents), torch.tensor([10, 400, 900]), backbone.embed(["a"] * 3)
    noisy, wanted = velocity.noised(latents, noise, times)
    signal = backbone.alphas_cumprod[times].sqrt().view(-1, 1, 1, 1)
    guess = backbone.unet(noisy, times, words).sample
    assert torch.allclose(velocity.predicted_noise(noisy, times, words) - noise, signal * (guess - wanted), atol=1e-5)
    assert torch.equal(backbone.predicted_noise(noisy, times, words), guess)


@pytest.mark.parametrize(("name", "settings"), [("mist", {"mode": "texture"}), ("ace", {"mode": "fused", "lr": 1e-5})])
def test_a_targeted_protection_comes_nearer_its_target(name: str, settings: dict, photos: Tensor, context: Context):
    loops = {"steps": 25} if name == "mist" else {"rounds": 1, "ascent_steps": 25, "protected_steps": 1}
    protected = protect(name, photos, context, step_size=2.0, **settings, **loops)
    target = context.suite.backbone.encode(target_image(None, photos))
    near = encoder_error(context.suite.backbone, target)
    assert (near(protected, []) > near(photos, [])).all()


def test_ace_lowers_the_distance_of_the_prediction(photos: Tensor, context: Context):
    backbone = context.suite.backbone
    target = backbone.encode(target_image(None, photos))
    protected = protect("ace", photos, context, rounds=1, ascent_steps=20, protected_steps=0, step_size=2.0)

    def pull(images: Tensor) -> float:
        losses = predicted_target(backbone, context.subject.instance_prompt, target)
        with torch.no_grad():
            return float(np.mean([losses(images, generators(seed, "judge", 3)).mean() for seed in range(20)]))

    assert pull(protected) > pull(photos)


def test_a_target_of_another_size_is_refused(tmp_path: Path, photos: Tensor, context: Context):
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / "target.png")
    with pytest.raises(UserError, match="48x32 and the photos are 64x64"):
        protect("mist", photos, context, target=str(tmp_path / "target.png"), steps=1)


def test_pid_drives_the_statistics_away(photos: Tensor, context: Context):
    posterior = context.suite.backbone.posterior
    protected = protect("pid", photos, context, steps=20, step_size=2.0)
    noise = protect("random_noise", photos, context)
    far = [(posterior(images)[0] - posterior(photos)[0]).pow(2).mean() for images in (protected, noise)]
    assert far[0] > 2 * far[1]


def test_sds_up_and_down_are_opposite_first_steps(photos: Tensor, context: Context):
    grey = photos * 0.5 + 0.25
    up, down = (protect("sds", grey, context, steps=1, direction=way) for way in ("plus", "minus"))
    moved = torch.stack([(up - grey) * 255, (down - grey) * 255]).sum(0)
    assert (moved.abs() < 1.1).all()
    assert not torch.equal(up, down)


def test_a_shuffled_perturbation_keeps_its_values_and_nearly_its_spectrum():
    x = torch.linspace(0, 20, 64)
    offset = (x.sin().view(1, 1, 64, 1) * x.cos().view(1, 1, 1, 64)).repeat(2, 3, 1, 1).sign() * 0.04
    offset = offset + 0.001 * torch.randn(offset.shape, generator=torch.Generator().manual_seed(0))
    noise = shuffle_phases(offset, generators(0, "s", 2), 60)
    assert torch.equal(noise.flatten(2).sort(-1).values, offset.flatten(2).sort(-1).values)
    spectra = [torch.fft.rfft2(field).abs() for field in (offset, noise)]
    assert torch.nn.functional.cosine_similarity(*(s.flatten(1) for s in spectra)).min() > 0.95
    similar = torch.nn.functional.cosine_similarity(offset.flatten(1), noise.flatten(1)).abs()
    assert (similar < 0.3).all()


def test_a_transplanted_perturbation_is_the_next_photo_s(photos: Tensor, context: Context):
    grey = (photos * 0.5 + 0.25).mul(255).round() / 255
    base = {"name": "advdm", "settings": {"steps": 3}}
    own = (protect("advdm", grey, context, steps=3) - grey) * 255
    moved = (protect("transplant", grey, context, base=base) - grey) * 255
    assert torch.allclose(moved, own.roll(-1, 0), atol=1e-2)


@pytest.mark.parametrize("name", ["transplant", "shuffled"])
def test_a_control_of_a_control_is_refused(name: str, photos: Tensor, context: Context):
    with pytest.raises(UserError, match="choose a protection"):
        protect(name, photos, context, base="shuffled")


def test_the_surrogate_of_a_round_is_discarded(photos: Tensor, context: Context):
    backbone = context.suite.backbone
    with backbone.borrowed():
        surrogate = Surrogate(backbone, context, SurrogateConfig(**SURROGATE), stream_of(generators(0, "p", 3)))
        before = checksum(backbone)
        with surrogate.discarded(surrogate.latents(photos), 2):
            assert checksum(backbone) != before
        assert checksum(backbone) == before


def test_metacloak_released_trains_on_another_range(photos: Tensor, context: Context):
    short = {"train_steps": 2, "snapshots": 2, "rounds": 1, "unroll": 1, "ascent_steps": 1} | SURROGATE
    paper, released = (protect("metacloak", photos, context, variant=v, **short) for v in ("paper", "released"))
    assert not torch.equal(paper, released)


def test_the_features_of_simac_have_a_gradient_in_the_paper_and_none_as_released(photos: Tensor, context: Context):
    short = {"rounds": 1, "clean_steps": 0, "ascent_steps": 2, "protected_steps": 0, "search_steps": 1} | SURROGATE
    paper, released = (protect("simac", photos, context, variant=v, **short) for v in ("paper", "released"))
    none = protect("simac", photos, context, feature_weight=0.0, **short)
    assert torch.equal(released, none)
    assert not torch.equal(paper, released)


def test_recorded_attention_changes_nothing_and_sums_to_one(context: Context):
    backbone = context.suite.backbone
    latents, times, words = torch.randn(2, 4, 16, 16), torch.tensor([5, 500]), backbone.embed(["a photo", "b"])
    plain = backbone.unet(latents, times, words).sample
    with recorded(backbone.unet, 8) as maps:
        assert torch.allclose(backbone.unet(latents, times, words).sample, plain, atol=1e-5)
    assert maps
    assert all(torch.allclose(one.sum(-1), torch.ones(2, 64), atol=1e-5) for one in maps)
    assert torch.equal(backbone.unet(latents, times, words).sample, plain)


def test_large_attention_that_nobody_reads_is_not_materialised(context: Context, monkeypatch: pytest.MonkeyPatch):
    backbone, sizes = context.suite.backbone, []
    latents, times, words = torch.randn(2, 4, 16, 16), torch.tensor([5, 500]), backbone.embed(["a photo", "b"])
    kind = next(m for m in backbone.unet.modules() if hasattr(m, "get_attention_scores")).__class__
    scores = kind.get_attention_scores

    def materialised(self: Any, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        sizes.append((query.shape[1], key.shape[1]))
        return scores(self, query, key, mask)

    monkeypatch.setattr(kind, "get_attention_scores", materialised)
    monkeypatch.setattr("redcloak.crafting.attention.LARGE", 16)
    plain = backbone.unet(latents, times, words).sample
    with recorded(backbone.unet, 8) as maps:
        assert torch.allclose(backbone.unet(latents, times, words).sample, plain, atol=1e-5)
    assert set(sizes) == {(64, words.shape[1])}
    assert len(maps) == len(sizes)


LARGE_PHOTOS = {
    "caat": {"steps": 3, "lr": 1e-4},
    "disdiff": {"rounds": 1, "clean_steps": 1, "ascent_steps": 3, "protected_steps": 0, "batch": 2, "lr": 3e-3},
}


@pytest.mark.parametrize("name", LARGE_PHOTOS)
def test_large_photos_go_singly_where_the_loss_is_their_sum(
    name: str, photos: Tensor, context: Context, monkeypatch: pytest.MonkeyPatch
):
    sizes, encode, results = [], Backbone.encode, []

    def counted(self: Backbone, images: Tensor, streams: Any = None) -> Tensor:
        sizes.append(len(images))
        return encode(self, images, streams)

    monkeypatch.setattr(Backbone, "encode", counted)
    for small in (128 * 128, 1):
        monkeypatch.setattr("redcloak.crafting.ascent.SMALL", small)
        results.append(protect(name, photos, context, **LARGE_PHOTOS[name]))
    assert sizes == [3] * 3 + [1] * 9
    assert (results[0] - results[1]).abs().mean() < 0.3 / 255


def test_caat_knows_no_steps_that_are_halved():
    with pytest.raises(UserError, match=r"protection 'caat': rule = 'apgd'"):
        load("protect", "caat").configure(rule="apgd")


@pytest.mark.parametrize("name", LARGE_PHOTOS)
def test_the_photo_whose_gradient_alone_is_no_number_is_named(
    name: str, photos: Tensor, context: Context, monkeypatch: pytest.MonkeyPatch
):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, images: Tensor) -> Tensor:
            return images.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * torch.tensor([1.0, 1.0, torch.nan]).view(-1, 1, 1, 1)

    encode = Backbone.encode
    monkeypatch.setattr(Backbone, "encode", lambda self, images, streams: encode(self, Broken.apply(images), streams))
    with pytest.raises(Diverged, match="photo 3: the loss or its gradient is not a number at step 1;"):
        protect(name, photos, context, **LARGE_PHOTOS[name])


def test_caat_trains_keys_and_values_and_gives_them_back(photos: Tensor, context: Context):
    before = checksum(context.suite.backbone)
    learned = protect("caat", photos, context, steps=4, lr=1e-2)
    assert checksum(context.suite.backbone) == before
    assert not torch.equal(learned, protect("caat", photos, context, steps=4, lr=1e-8))


def test_an_ensemble_of_one_copy_is_aspl(photos: Tensor, context: Context):
    short = {"rounds": 2, "clean_steps": 1, "ascent_steps": 2, "protected_steps": 1} | SURROGATE
    one = protect("easpl", photos, context, copies=1, **short)
    two = protect("easpl", photos, context, copies=2, **short)
    assert not torch.equal(one, two)


def test_each_image_is_flipped_or_not_and_blurred_by_its_own_sigma(photos: Tensor):
    sharp = blur_each(photos, torch.tensor([0.1, 0.1, 0.1]), 3)
    assert torch.allclose(sharp, photos, atol=1e-4)
    mixed = flip_and_blur(photos, generators(0, "t", 3))
    alone = one_by_one(lambda image: image, mixed)
    assert torch.equal(mixed, alone)
    assert torch.allclose(flip_and_blur(photos[1:2], generators(0, "t", 3)[1:2]), mixed[1:2], atol=1e-6)
    flat = torch.full((2, 3, 16, 16), 0.3)
    assert torch.allclose(blur_each(flat, torch.tensor([0.5, 2.0]), 3), flat, atol=1e-6)


def test_disdiff_looks_at_the_prompt_s_own_words(context: Context):
    from redcloak.protect.disdiff import _places

    surrogate = Surrogate(context.suite.backbone, context, SurrogateConfig(), stream_of(generators(0, "p", 1)))
    token, words = _places(surrogate)
    tokenizer = context.suite.backbone.tokenizer
    shown = tokenizer(surrogate.prompt).input_ids[words]
    assert tokenizer.decode(shown).strip() == surrogate.prompt
    assert tokenizer.decode(shown[token]).strip() in context.subject.identifier


def test_disdiff_released_averages_the_attention_of_the_batch():
    from redcloak.protect.disdiff import Config, _Erasing

    maps, like = [torch.rand((3, 16, 5), generator=torch.Generator().manual_seed(0))], torch.zeros(3)
    paper, released = (_Erasing(Config(variant=v), 3)._erased(maps, 2, like) for v in ("paper", "released"))
    alone = [_Erasing(Config(), 3)._erased([maps[0][row : row + 1]], 2, like[:1]) for row in range(3)]
    assert torch.allclose(paper, torch.cat(alone))
    mean = _Erasing(Config(), 3)._erased([maps[0].mean(0, keepdim=True)], 2, like[:1])
    assert torch.allclose(released, mean.expand(3))


def test_decoupling_without_a_surrogate_is_refused(photos: Tensor, context: Context):
    with pytest.raises(UserError, match="advdm trains none"):
        protect("adaptive", photos, context, base="advdm", through=[], decoupling=True)


def test_decoupling_s_own_words_reach_the_surrogate(photos: Tensor, context: Context):
    base = {"name": "fsmg", "settings": {"train_steps": 2, "steps": 1, "lr": 3e-2}}
    ways = [False, True, {"variant": "paper"}, {"noise_token": "zzz grain"}]
    made = [protect("adaptive", photos, context, base=base, through=[], decoupling=way) for way in ways]
    assert len({tuple(images.flatten().tolist()) for images in made}) == len(ways)


def test_one_model_twice_is_no_ensemble(photos: Tensor, context: Context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("redcloak.crafting.ensemble._other", lambda name, _: context.suite.backbone)
    with pytest.raises(UserError, match="twice"):
        protect("easpl", photos, context, surrogates=("same",), rounds=1)


def test_the_surrogate_sees_another_draw_of_the_lens_each_time(photos: Tensor, context: Context):
    seen: list[Tensor] = []

    def noisy(images: Tensor, streams: list[torch.Generator]) -> Tensor:
        seen.append(randn(images, streams))
        return images

    inside = replace(context, lens=noisy)
    surrogate = Surrogate(context.suite.backbone, inside, SurrogateConfig(), stream_of(generators(0, "p", 3)))
    surrogate.latents(photos)
    surrogate.latents(photos)
    assert not torch.equal(seen[0], seen[1])
