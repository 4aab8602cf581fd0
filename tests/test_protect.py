from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import checksum
from torch import Tensor

from redcloak.api import Context, Subject
from redcloak.backbone import Backbone
from redcloak.crafting.objectives import denoising, value_and_gradient
from redcloak.crafting.surrogate import Surrogate
from redcloak.images import to_uint8
from redcloak.protect import advdm, aspl, none, photoguard, random_noise
from redcloak.rng import generators

ASPL = {"rounds": 1, "clean_steps": 1, "ascent_steps": 2, "protected_steps": 1, "lr": 3e-3, "step_size": 3.0}


def protect(module, images: Tensor, context: Context, seed: int = 0, **settings) -> Tensor:
    function = getattr(module, module.__name__.rsplit(".", 1)[1])
    return function(images, module.Config(**settings), context, generators(seed, "p", len(images)))


def steps_of_255(protected: Tensor, photos: Tensor) -> Tensor:
    return torch.from_numpy(to_uint8(protected).astype(int) - to_uint8(photos))


def test_no_protection_is_the_photo(photos: Tensor, context: Context):
    assert torch.equal(protect(none, photos, context), photos)


def test_sign_noise_sits_at_the_radius_wherever_there_is_room(photos: Tensor, context: Context):
    offset = steps_of_255(protect(random_noise, photos, context, budget=8), photos)
    inner = torch.from_numpy(((to_uint8(photos) >= 8) & (to_uint8(photos) <= 247)).copy())
    assert set(offset[inner].unique().tolist()) == {-8, 8}
    assert abs(float(offset[inner].double().mean())) < 0.15
    assert offset[(to_uint8(photos) == 0)].unique().tolist() == [0, 8]
    assert offset[(to_uint8(photos) == 255)].unique().tolist() == [-8, 0]


def test_uniform_noise_is_anywhere_inside(context: Context):
    grey = torch.full((2, 3, 64, 64), 128 / 255)
    offset = steps_of_255(protect(random_noise, grey, context, budget=4, distribution="uniform"), grey)
    share = torch.stack([(offset == step).double().mean() for step in range(-4, 5)])
    assert torch.allclose(share, torch.tensor([1, 2, 2, 2, 2, 2, 2, 2, 1]).double() / 16, atol=0.01)


@pytest.mark.parametrize("target", ["zero", "grey"])
def test_photoguard_moves_the_latents_to_its_target_and_noise_does_not(target: str, photos: Tensor, context: Context):
    backbone = context.suite.backbone
    goal = torch.zeros(1) if target == "zero" else backbone.encode(torch.full_like(photos, 0.5))

    def distance(images: Tensor) -> Tensor:
        return (backbone.encode(images) - goal).flatten(1).norm(dim=1)

    guarded = distance(protect(photoguard, photos, context, steps=15, step_size=2.0, target=target))
    noisy = distance(protect(random_noise, photos, context))
    assert (guarded < 0.98 * distance(photos)).all()
    assert (guarded < 0.98 * noisy).all()


def test_photoguard_s_edits_of_large_photos_are_drawn_again_and_the_same(
    photos: Tensor, context: Context, monkeypatch: pytest.MonkeyPatch
):
    backbone, edit, calls, found = context.suite.backbone, Backbone.edit, [], []

    def counted(self: Backbone, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(None)
        return edit(self, *args, **kwargs)

    monkeypatch.setattr(Backbone, "edit", counted)
    for small in (128 * 128, 1):
        monkeypatch.setattr("redcloak.crafting.ascent.SMALL", small)
        objective, streams = photoguard._edited(backbone, photoguard.Config(denoising_steps=2)), generators(0, "p", 1)
        found.append((*value_and_gradient(objective, photos[:1], streams), streams[0].get_state()))
    assert len(calls) == 2 + 4
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("latent", ["sample", "mean"])
def test_advdm_raises_the_training_loss_or_lowers_it(latent: str, photos: Tensor, context: Context):
    backbone = replace(context.suite.backbone, latent=latent)
    context = replace(context, suite=Stand(backbone=backbone))

    def loss(images: Tensor) -> float:
        """Averaged over draws that no protection has seen."""
        judge = denoising(backbone, context.subject.class_prompt, draws=30)
        with torch.no_grad():
            return float(judge(images, generators(99, "judge", len(images))).mean())

    up, down = (
        protect(advdm, photos, context, steps=12, step_size=3.0, draws=2, direction=way) for way in ("plus", "minus")
    )
    assert loss(up) > loss(protect(random_noise, photos, context)) > loss(down)


class Stand:
    """In a suite's place, with those of its slots that are given."""

    def __init__(self, **slots: object) -> None:
        self.__dict__.update(slots)


def test_the_prompts_of_the_surrogates_are_the_subject_s(photos: Tensor, context: Context):
    dog = replace(context, subject=Subject("dog", "xyz"))
    for module, settings in ((advdm, {"steps": 2}), (aspl, ASPL)):
        person = protect(module, photos, context, **settings)
        assert not torch.equal(protect(module, photos, dog, **settings), person)


def test_aspl_s_photos_are_protected_together(photos: Tensor, context: Context):
    """That is why it is no method of single photos: the surrogate has seen the companions."""
    other = torch.cat([photos[:1], 1 - photos[1:]])
    assert not torch.equal(protect(aspl, photos, context, **ASPL)[0], protect(aspl, other, context, **ASPL)[0])


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_released_aspl_trains_only_on_the_pictures_it_indexes(variant: str, photos: Tensor, context: Context):
    """One step a turn, one picture a step: picture 0, whatever the other clean photos show."""
    settings = ASPL | {"variant": variant, "clean_steps": 2, "protected_steps": 0, "lr": 3e-2}

    def with_references(reference: Tensor) -> Tensor:
        return protect(aspl, photos, replace(context, reference=reference), **settings)

    known = with_references(photos)
    last = with_references(torch.cat([photos[:2], 1 - photos[2:]]))
    assert torch.equal(last, known) == (variant == "released")
    assert not torch.equal(with_references(torch.cat([1 - photos[:1], photos[1:]])), known)


def test_aspl_s_clean_photos_are_the_reference(photos: Tensor, context: Context):
    settings = ASPL | {"protected_steps": 0}
    own = protect(aspl, photos, context, **settings)
    assert torch.equal(protect(aspl, photos, replace(context, reference=photos), **settings), own)
    assert not torch.equal(protect(aspl, photos, replace(context, reference=1 - photos), **settings), own)


def test_aspl_without_class_pictures_is_aspl_without_their_weight(photos: Tensor, context: Context):
    plain = protect(aspl, photos, replace(context, class_images=None), **ASPL)
    assert torch.equal(protect(aspl, photos, context, **ASPL, prior_weight=0), plain)
    assert torch.equal(protect(aspl, photos, replace(context, class_images=photos[:0]), **ASPL), plain)
    assert not torch.equal(protect(aspl, photos, context, **ASPL), plain)


@pytest.mark.parametrize("kept_steps", [0, 1])
def test_only_what_aspl_learned_from_protected_photos_lasts(
    kept_steps: int, photos: Tensor, context: Context, monkeypatch: pytest.MonkeyPatch
):
    """The surrogate before each of its turns: clean and protected, clean and protected."""
    surrogates: list[str] = []
    learn = Surrogate.learn

    def spy(*arguments) -> None:
        surrogates.append(checksum(context.suite.backbone))
        learn(*arguments)

    monkeypatch.setattr(Surrogate, "learn", spy)
    protect(aspl, photos, context, **(ASPL | {"rounds": 2, "protected_steps": kept_steps}))
    first, first_kept, second, second_kept = surrogates
    assert first == first_kept, "clean steps were not discarded"
    assert second == second_kept, "clean steps were not discarded"
    assert (second == first) == (kept_steps == 0)


def test_rounds_without_a_surrogate_are_one_long_ascent(photos: Tensor, context: Context):
    settings = ASPL | {"clean_steps": 0, "protected_steps": 0}
    two = protect(aspl, photos, context, **(settings | {"rounds": 2}))
    assert torch.equal(two, protect(aspl, photos, context, **(settings | {"ascent_steps": 4})))


def test_progress_is_told(photos: Tensor, context: Context):
    told: list[tuple[int, int]] = []
    context = replace(context, progress=lambda done, total, values: told.append((done, total)))
    protect(photoguard, photos, context, steps=3)
    protect(aspl, photos, context, **(ASPL | {"rounds": 2}))
    assert told == [(1, 3), (2, 3), (3, 3), (1, 2), (1, 2), (2, 2), (2, 2)]
