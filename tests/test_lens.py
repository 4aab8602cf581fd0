from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import here, quick
from torch import Tensor

from redcloak.api import Context
from redcloak.config import Choice
from redcloak.crafting.lens import ChainLens, MixedLens, lens
from redcloak.protect import adaptive, advdm
from redcloak.purify import codesr, gaussian, jpeg
from redcloak.registry import load, names
from redcloak.rng import generators
from redcloak.suite import Suite

BLUR, JPEG, CODESR = Choice(name="gaussian"), Choice(name="jpeg"), Choice(name="codesr")


def gradient(seen: Tensor, images: Tensor) -> Tensor:
    return torch.autograd.grad(seen.square().sum(), images)[0]


@pytest.mark.parametrize("name", [name for name in names("purify") if here("purify", name)])
def test_the_gradient_through_a_purifier_is_what_it_says(name: str, photos: Tensor, context: Context):
    """Against finite differences along itself, where the purifier is differentiable; deep networks bend soon."""
    entry, images = load("purify", name), photos[:1] * 0.8 + 0.1
    settings = quick(entry)
    lens = ChainLens((Choice(name=name, settings=settings.model_dump(exclude_unset=True)),), context)
    if not entry.method.differentiable:
        leaf = images.clone().requires_grad_(True)
        slope = torch.autograd.grad(lens(leaf, generators(0, "l", 1)).sum(), leaf)[0]
        if entry.stand_in:
            near = entry.stand_in(leaf, settings, context, generators(0, "l", 1))
            assert torch.equal(slope, torch.autograd.grad(near.sum(), leaf)[0]), "the stand-in's"
        else:
            assert torch.allclose(slope, torch.ones_like(slope)), "straight through"
        return

    def value(seen: Tensor) -> Tensor:
        return lens(seen, generators(0, "l", 1)).square().sum()

    leaf = images.clone().requires_grad_(True)
    slope = torch.autograd.grad(value(leaf), leaf)[0]
    way = slope / slope.square().mean().sqrt()
    exact = float((slope * way).sum())
    with torch.no_grad():
        estimates = [float((value(images + h * way) - value(images - h * way)) / (2 * h)) for h in (2e-3, 5e-4, 1e-4)]
    assert any(exact == pytest.approx(estimate, rel=0.03) for estimate in estimates), (exact, estimates)


def test_a_chain_is_its_purifiers_one_after_the_other(photos: Tensor, context: Context):
    seen = ChainLens((BLUR, JPEG), context)(photos, generators(0, "l", 3))
    blurred = gaussian.gaussian(photos, gaussian.Config(), context, [])
    assert torch.allclose(seen, jpeg.jpeg(blurred, jpeg.Config(), context, []), atol=1e-6)


@pytest.mark.parametrize("slot", ["restorer", "upscaler"])
def test_a_model_that_keeps_no_graph_is_passed_straight(slot: str, photos: Tensor, suite_folder: Path):
    """As CodeFormer and the Stable Diffusion x4 upscaler in a suite's slots: no error, and no masked gradient."""
    suite = Suite(suite_folder)
    whole, leaf = getattr(suite, slot), photos[:1].clone().requires_grad_(True)
    assert whole.differentiable
    setattr(suite, slot, replace(whole, run=torch.no_grad()(whole.run), differentiable=False))
    seen = ChainLens((CODESR,), Context(suite))(leaf, generators(0, "l", 1))
    purified = codesr.codesr(photos[:1], codesr.Config(), Context(suite), generators(0, "l", 1))
    assert torch.allclose(seen, purified, atol=1e-6)
    (slope,) = torch.autograd.grad(seen.sum(), leaf)
    assert torch.allclose(slope, torch.ones_like(slope))


def test_a_mixture_draws_for_each_photo_alone(photos: Tensor, context: Context):
    mixed = lens([(BLUR,), (JPEG,)], context, "exact", plain=0.3)
    assert isinstance(mixed, MixedLens)
    together = mixed(photos, generators(3, "l", 3))
    alone = torch.cat([mixed(photos[i : i + 1], generators(3, "l", 3)[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)
    kinds = {
        next(i for i, one in enumerate(options) if torch.allclose(seen, one, atol=1e-5))
        for seed in range(12)
        for row, seen in enumerate(mixed(photos, generators(seed, "l", 3)))
        for options in [
            [photos[row], *(lens([c], context, "exact", 0)(photos, [None] * 3)[row] for c in ((BLUR,), (JPEG,)))]
        ]
    }
    assert kinds == {0, 1, 2}


def test_nothing_to_look_through_is_no_lens(context: Context):
    assert lens([], context, "exact", 0) is None


def test_an_adaptive_protection_without_a_purifier_is_its_base(photos: Tensor, context: Context):
    base = {"name": "advdm", "settings": {"steps": 3}}
    plain = advdm.advdm(photos, advdm.Config(steps=3), context, generators(0, "p", 3))
    config = adaptive.Config(base=base, through=())
    assert torch.equal(adaptive.adaptive(photos, config, context, generators(0, "p", 3)), plain)
    through = adaptive.Config(base=base, through=((BLUR,),))
    assert not torch.equal(adaptive.adaptive(photos, through, context, generators(0, "p", 3)), plain)


def test_an_adaptive_protection_holds_behind_what_it_was_crafted_through(photos: Tensor, context: Context):
    """PhotoGuard through a wide blur moves the blurred photo's latents further than PhotoGuard that ignores it."""
    wide = Choice(name="gaussian", settings={"sigma": 2.0})
    base = {"name": "photoguard", "settings": {"steps": 25, "step_size": 3.0}}
    backbone = context.suite.backbone

    def distance(through: tuple) -> float:
        config = adaptive.Config(base=base, through=through, budget=16)
        protected = adaptive.adaptive(photos, config, context, generators(0, "p", 3))
        seen = ChainLens((wide,), context)(protected, generators(0, "l", 3))
        with torch.no_grad():
            return float(backbone.encode(seen).flatten(1).norm(dim=1).mean())

    assert distance(((wide,),)) < distance(())


def test_decoupling_changes_the_surrogate_s_prompts(photos: Tensor, context: Context):
    base = {
        "name": "aspl",
        "settings": {"rounds": 1, "clean_steps": 1, "ascent_steps": 2, "protected_steps": 1, "lr": 3e-3},
    }
    results = [
        adaptive.adaptive(
            photos, adaptive.Config(base=base, through=(), decoupling=flag), replace(context), generators(0, "p", 3)
        )
        for flag in (False, True)
    ]
    assert not torch.equal(*results)
