"""What every method promises, asked of every method that is registered: a new file needs no new test."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from conftest import checksum, here, quick
from pydantic import ValidationError
from torch import Tensor

from redcloak.api import Context, Kind, Method
from redcloak.config import MethodConfig, ProtectConfig
from redcloak.images import linf_on_disk, on_lattice, save_images, to_tensor, to_uint8
from redcloak.portraits import subject
from redcloak.registry import Entry, load, modules, names
from redcloak.rng import generator, generators

KINDS: tuple[Kind, ...] = get_args(Kind)
EVERY = [(kind, name) for kind in KINDS for name in names(kind)]
PICTORIAL = [(kind, name) for kind, name in EVERY if kind in ("protect", "purify") and here(kind, name)]
PROTECTIONS = [name for kind, name in PICTORIAL if kind == "protect"]
PURIFIERS = [name for kind, name in PICTORIAL if kind == "purify"]
MEASURING = [name for name in names("metrics") if here("metrics", name)]
WEIGHTS_OF_THE_USER = {
    "dino",
    "liqe",
    "lpips",
    "codeformer",
    "gfpgan",
    "nafnet",
    "scunet",
    "sd_x4",
    "swinir",
}  # tests/test_restorers.py
TOGETHER = [name for name in PROTECTIONS if "protected together" in " ".join(load("protect", name).doc.split())]


def apply(entry: Entry, images: Tensor, context: Context, seed: int = 0, **settings: Any) -> Tensor:
    return entry.function(images, quick(entry, **settings), context, generators(seed, entry.name, len(images)))


def global_randomness() -> tuple[bytes, bytes, object]:
    return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()  # noqa: NPY002


def same(a: Tensor, b: Tensor) -> bool:
    return a.numpy().tobytes() == b.numpy().tobytes()


@pytest.fixture(params=PICTORIAL, ids="/".join)
def pictorial(request: pytest.FixtureRequest) -> Entry:
    return load(*request.param)


def test_all_methods_run_here_but_those_whose_weights_only_a_user_has():
    every = {name for kind, name in EVERY if kind != "personalize"}
    assert every - WEIGHTS_OF_THE_USER <= {name for _, name in PICTORIAL} | {*MEASURING}


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_method_says_what_it_is(kind: Kind, name: str):
    entry = load(kind, name)
    assert isinstance(entry.method, Method)
    assert entry.method.cite
    assert entry.method.title
    assert entry.function.__name__ == name
    assert entry.function.__module__ == modules(kind)[name]
    assert len(inspect.cleandoc(entry.doc).split("\n", 1)[0].split()) >= 4, "the first line says what it does"
    for word in ("(N, 3, H, W)", "[0, 1]", "Cite:", "License:"):
        assert word in entry.doc, word
    assert "andom" in entry.doc or not entry.method.stochastic, "what is random?"


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_configuration_is_closed_and_explains_itself(kind: Kind, name: str):
    config = load(kind, name).config
    assert issubclass(config, ProtectConfig if kind == "protect" else MethodConfig)
    assert config.__doc__
    assert all(info.description for info in config.model_fields.values())
    with pytest.raises(ValidationError, match="extra_forbidden"):
        config(nonsense=1)
    with pytest.raises(ValidationError, match="frozen"):
        config().nonsense = 1


@pytest.mark.parametrize("shape", ["photos", "wide"])
def test_pictures_come_back_as_pictures(pictorial: Entry, shape: str, context: Context, request):
    images = request.getfixturevalue(shape)
    if shape == "wide" and pictorial.name in PURIFIERS:  # protections see photos that are fitted to the suite
        images = images[..., :47, :71].contiguous()
    result = apply(pictorial, images, replace(context, class_images=images[:2]))
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert not result.requires_grad
    assert result.min() >= 0, "also false for nan"
    assert result.max() <= 1


def test_nothing_is_changed_that_was_lent(pictorial: Entry, photos: Tensor, context: Context):
    images, weights = photos.clone(), checksum(context.suite.backbone)
    randomness = global_randomness()
    result = apply(pictorial, images, context)
    assert same(images, photos)
    assert result.data_ptr() != images.data_ptr(), "the input itself came back"
    assert checksum(context.suite.backbone) == weights
    assert global_randomness() == randomness


def test_the_seed_alone_decides(pictorial: Entry, photos: Tensor, context: Context):
    torch.manual_seed(1)
    first = apply(pictorial, photos, context)
    torch.manual_seed(2)
    assert same(apply(pictorial, photos, context), first)
    assert same(apply(pictorial, photos, context, seed=1), first) != pictorial.method.stochastic


@pytest.mark.parametrize(("kind", "name"), [pair for pair in PICTORIAL if pair[1] not in TOGETHER])
def test_other_companions_change_nothing(kind: Kind, name: str, photos: Tensor, context: Context):
    entry = load(kind, name)
    with_one, with_another = (torch.cat([photos[:1], companions]) for companions in (photos[1:], 1 - photos[1:]))
    long = {"steps": 12} if "steps" in entry.config.model_fields else {}
    results = [apply(entry, images, context, **long) for images in (with_one, with_another)]
    assert same(results[0][0], results[1][0])


@pytest.mark.parametrize("name", PURIFIERS)
def test_a_purifier_treats_every_picture_on_its_own(name: str, photos: Tensor, context: Context):
    entry = load("purify", name)
    alone = one_by_one(entry, photos, context)
    assert torch.allclose(apply(entry, photos, context), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in PROTECTIONS if name not in TOGETHER])
def test_a_protection_treats_every_photo_on_its_own(name: str, photos: Tensor, context: Context):
    """Kernels sum in another order for another batch size: where a gradient is all but zero, its sign may turn."""
    entry = load("protect", name)
    together, alone = apply(entry, photos, context), one_by_one(entry, photos, context)
    assert (to_uint8(together) != to_uint8(alone)).mean() < 1e-3


def one_by_one(entry: Entry, images: Tensor, context: Context) -> Tensor:
    streams = generators(0, entry.name, len(images))
    rows = [entry.function(images[i : i + 1], quick(entry), context, [stream]) for i, stream in enumerate(streams)]
    return torch.cat(rows)


@pytest.mark.parametrize("budget", [1, 4, 8, 11, 16])
@pytest.mark.parametrize("name", PROTECTIONS)
def test_the_budget_holds_on_disk(name: str, budget: int, photos: Tensor, context: Context, tmp_path: Path):
    steps = {"step_size": 9.0} if "step_size" in load("protect", name).config.model_fields else {}
    protected = apply(load("protect", name), photos, context, budget=budget, **steps)
    assert torch.equal(protected, on_lattice(protected))
    saved = zip(save_images(tmp_path / "a", protected), save_images(tmp_path / "b", photos), strict=True)
    largest = [linf_on_disk(*pair) for pair in saved]
    assert max(largest) == (0 if name == "none" else budget)


@pytest.mark.parametrize("name", names("personalize"))
def test_a_trainer_changes_what_it_was_lent_and_nothing_else(name: str, photos: Tensor, context: Context):
    entry, backbone, images = load("personalize", name), context.suite.backbone, photos.clone()
    before, randomness = checksum(backbone), global_randomness()

    def trained(seed: int) -> str:
        with backbone.borrowed():
            assert entry.function(images, quick(entry, lr=1e-3), context, generator(seed, name)) is None
            return checksum(backbone)

    first = trained(0)
    assert first != before
    assert trained(0) == first
    assert trained(1) != first
    assert checksum(backbone) == before
    assert global_randomness() == randomness
    assert same(images, photos)
    assert same(context.class_images, to_tensor([subject(number, shots=1)[0] for number in (5, 6)]))


@pytest.mark.parametrize("name", MEASURING)
def test_a_metric_gives_a_value_for_each_picture(name: str, photos: Tensor, context: Context):
    entry, images = load("metrics", name), (photos * 0.9).contiguous()
    kept, randomness = images.clone(), global_randomness()
    context = replace(context, reference=photos, prompts=("a photo of sks person",) * len(photos))
    values = measured(entry, images, context)
    assert values.keys() == entry.method.scores.keys()
    for key, score in entry.method.scores.items():
        assert values[key].shape == (len(images),)
        assert bool(((values[key] >= score.low) & (values[key] <= score.high) | values[key].isnan()).all())
    assert same(images, kept)
    assert global_randomness() == randomness
    reference = photos[2:] if entry.method.paired else photos
    last = measured(entry, images[2:], replace(context, prompts=context.prompts[2:], reference=reference))
    if name != "kid":  # it speaks of a set
        assert all(torch.allclose(values[key][2:], last[key], atol=1e-5, equal_nan=True) for key in values)


def measured(entry: Entry, images: Tensor, context: Context) -> dict[str, Tensor]:
    function: Callable[..., dict[str, Tensor]] = entry.function
    return function(images, quick(entry), context)
