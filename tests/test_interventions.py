"""Interventions and their constraints against closed forms; what every protection promises is in test_contract.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor
from torch.nn import functional as F

from redcloak.api import Context
from redcloak.crafting.constrained import ConstrainedConfig, constrained
from redcloak.crafting.embeddings import embedding_distance, latent_shift, text_preference
from redcloak.crafting.objectives import EVERY, value_and_gradient
from redcloak.diagnose.interventions import spectrum_apart
from redcloak.diagnose.misalignment import measure
from redcloak.errors import UserError
from redcloak.images import on_lattice
from redcloak.protect.matched_noise import match, radial_energy, radial_power, radii
from redcloak.registry import load
from redcloak.rng import generators

BASE = {"name": "advdm", "settings": {"steps": 8, "step_size": 3.0}}
SIDE = 6


def protect(name: str, images: Tensor, context: Context, **settings) -> Tensor:
    entry = load("protect", name)
    return entry.function(images, entry.configure(**settings), context, generators(0, "p", len(images)))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def linear() -> SimpleNamespace:
    """A suite whose autoencoder and CLIP are matrices, so that every gradient has a closed form."""
    size = 3 * SIDE * SIDE
    encoder, tower, texts = numbers(8, size) / 10, numbers(5, size, seed=1) / 10, F.normalize(numbers(2, 5, seed=2))
    backbone = SimpleNamespace(
        encode=lambda images: (images.flatten(1) @ encoder.T).view(-1, 2, 2, 2),
        decode=lambda latents: (latents.flatten(1) @ encoder).view(-1, 3, SIDE, SIDE),
    )
    clip = SimpleNamespace(
        embed_images=lambda images: F.normalize(images.flatten(1) @ tower.T, dim=-1), embed_texts=lambda _: texts
    )
    return SimpleNamespace(backbone=backbone, clip=clip, encoder=encoder, tower=tower, texts=texts)


def test_the_gradient_of_the_latent_shift_is_the_closed_form(linear: SimpleNamespace):
    clean, offset = torch.full((2, 3, SIDE, SIDE), 0.5), 0.1 * numbers(2, 3, SIDE, SIDE, seed=3)
    value, gradient = value_and_gradient(latent_shift(linear, clean), clean + offset, [])
    moved = offset.flatten(1) @ linear.encoder.T
    assert torch.allclose(value, moved.pow(2).mean(1).sqrt(), atol=1e-5)
    expected = moved @ linear.encoder / (moved.norm(dim=1, keepdim=True) * 8**0.5)
    assert torch.allclose(gradient.flatten(1), expected, atol=1e-5)
    assert value_and_gradient(latent_shift(linear, clean), clean, [])[1].isfinite().all(), "at the photo itself"


@pytest.mark.parametrize("view", ["photo", "decoded"])
def test_the_gradient_of_the_preference_is_the_closed_form(linear: SimpleNamespace, view: str):
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    map_ = linear.tower if view == "photo" else linear.tower @ linear.encoder.T @ linear.encoder
    value, gradient = value_and_gradient(text_preference(linear, "a", "b", view), images, [])
    raw = images.flatten(1) @ map_.T
    unit, towards = F.normalize(raw, dim=1), linear.texts[0] - linear.texts[1]
    assert torch.allclose(value, unit @ towards, atol=1e-5)
    tangent = (towards - (unit @ towards)[:, None] * unit) / raw.norm(dim=1, keepdim=True)
    assert torch.allclose(gradient.flatten(1), tangent @ map_, atol=1e-5)


def test_the_distance_of_both_views_is_the_larger_and_bounds_every_cosine(linear: SimpleNamespace):
    clean = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    images = (clean + 0.1 * numbers(3, 3, SIDE, SIDE)).clamp(0, 1)
    found = {view: embedding_distance(linear, clean, view)(images, []) for view in ("photo", "decoded", "both")}
    assert torch.equal(found["both"], torch.maximum(found["photo"], found["decoded"]))
    change = (linear.clip.embed_images(images) - linear.clip.embed_images(clean)) @ linear.texts.T
    assert (change.abs().amax(1) <= found["photo"] + 1e-6).all()


def test_a_constrained_ascent_reaches_the_optimum_of_a_linear_programme(context: Context):
    """max a.d subject to b.d <= t and |d| <= r, whose optimum an exact solver knows."""
    clean, radius, limit = torch.full((2, 3, 8, 8), 127 / 255), 8 / 255, 0.05
    a, b = numbers(2, 3, 8, 8), numbers(2, 3, 8, 8, seed=1) + numbers(2, 3, 8, 8)  # the two pull the same way
    settings = ConstrainedConfig(budget=8, steps=300, step_size=2, rate=0.004)

    def aim(images, streams, rows=EVERY):
        return ((images - clean[rows]) * a[rows]).sum((1, 2, 3))

    def excess(images, streams, rows=EVERY):
        return ((images - clean[rows]) * b[rows]).sum((1, 2, 3)) / limit - 1

    found = constrained(clean, clean, aim, excess, generators(0, "x", 2), settings, context)
    assert torch.equal(found, on_lattice(found))
    assert (excess(found, []) <= 1e-4).all()
    for row in range(2):
        cost, bound = -a[row].flatten().numpy(), b[row].flatten().numpy()[None]
        best = linprog(cost, bound, [limit], bounds=(-radius, radius))
        free = radius * float(a[row].abs().sum())
        assert -best.fun < 0.9 * free, "the constraint must bite"
        assert float(aim(found, [])[row]) > -0.95 * best.fun


def test_what_moves_clip_leaves_the_latents_and_the_other_way_round(photos: Tensor, context: Context):
    suite, prompt = context.suite, context.subject.class_prompt
    made = {
        "noise": protect("random_noise", photos, context),
        "clip_only": protect("clip_only", photos, context, steps=40, tolerance=0.01),
        "latents_only": protect("latents_only", photos, context, steps=40, objective="distance", tolerance=0.05),
    }
    seen = {name: measure(x, prompt, suite.clip, suite.backbone, clean=photos) for name, x in made.items()}
    noisy = text_preference(suite, "a photo of noise", prompt, "photo")
    assert (seen["clip_only"]["latent_shift"] <= 0.01 + 1e-5).all()
    assert (noisy(made["clip_only"], []) > noisy(made["noise"], [])).all()
    for name in ("shift", "shift_decoded"):  # 1 - cosine is half the squared distance
        assert (seen["latents_only"][name] <= 0.05**2 / 2 + 1e-6).all()
    assert (seen["latents_only"]["latent_shift"] > 3 * seen["clip_only"]["latent_shift"]).all()


@pytest.mark.parametrize("keeps", ["latents", "size"])
def test_realignment_restores_the_embedding_and_keeps_the_shift(keeps: str, photos: Tensor, context: Context):
    base = protect("advdm", photos, context, **BASE["settings"])
    healed = protect("realign", photos, context, base=BASE, keeps=keeps, steps=40)
    clip, backbone = context.suite.clip, context.suite.backbone
    before, after = (measure(x, "a photo of person", clip, backbone, clean=photos) for x in (base, healed))
    assert (after["shift"] < 0.25 * before["shift"]).all()
    if keeps == "latents":
        assert (latent_shift(context.suite, base)(healed, []) <= 0.05 + 1e-5).all()
    else:
        assert (after["latent_shift"] >= 0.95 * before["latent_shift"] - 1e-5).all()


def test_matched_noise_has_the_values_and_the_rings_of_the_perturbation_and_none_of_its_grain():
    x = torch.arange(64) * 2 * torch.pi / 64
    stripes = (8 * x).sin().view(1, 1, 1, 64).expand(2, 3, 64, 64)
    offset = 0.03 * stripes + 0.004 * numbers(2, 3, 64, 64)
    noise, rings = match(offset, generators(0, "s", 2), 60), radii(64, 64)
    assert torch.equal(noise.flatten(2).sort(-1).values, offset.flatten(2).sort(-1).values), "so are L_inf and L2"
    power = [radial_power(field, rings) for field in (offset, noise)]
    share = [each / each.sum(-1, keepdim=True) for each in power]
    assert (share[0] - share[1]).abs().sum(-1).max() < 0.1
    assert F.cosine_similarity(offset.flatten(1), noise.flatten(1)).abs().max() < 0.2
    across = [torch.fft.rfft2(field).abs()[..., 0, 8].pow(2) / (64 * 64) for field in (offset, noise)]
    assert (across[1] < 0.3 * across[0]).all(), "the stripes stand across no longer"


def test_the_distance_of_spectra_is_that_of_amplitudes():
    offset = numbers(2, 3, 32, 48)
    assert torch.allclose(spectrum_apart(1.5 * offset, offset), torch.full((2,), 0.5), atol=1e-5)
    assert torch.allclose(spectrum_apart(offset.flip(-1).roll(5, -2), offset), torch.zeros(2), atol=1e-5)
    assert torch.allclose(radial_energy(offset, radii(32, 48)).sum(-1)[..., None], _energy(offset), rtol=1e-4)
    assert spectrum_apart(torch.zeros_like(offset), offset).tolist() == [1, 1]


def _energy(offset: Tensor) -> Tensor:
    """Over the half of the spectrum that ``rfft2`` keeps."""
    return torch.fft.fft2(offset)[..., : offset.shape[-1] // 2 + 1].abs().pow(2).sum((-2, -1))[..., None]


def test_radial_power_of_white_noise_is_flat():
    power = radial_power(numbers(1, 1, 64, 64), radii(64, 64))[0, 0] / 64**2
    assert np.allclose(power[4:32].mean(), 1, atol=0.1)


def test_an_intervention_is_not_made_adaptive_and_a_control_has_no_control(photos: Tensor, context: Context):
    through = replace(context, lens=lambda images, streams: images)
    with pytest.raises(UserError, match="choose a protection"):
        protect("clip_only", photos, through, steps=1)
    with pytest.raises(UserError, match="choose a protection"):
        protect("realign", photos, context, base="clip_only")
