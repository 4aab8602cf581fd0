"""Precision and the ways to need less memory: none but the precision changes a result."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import checksum
from torch import Tensor, nn

from redcloak import memory
from redcloak.api import Budget, Context, Kind, Machine
from redcloak.crafting.ascent import ascend
from redcloak.crafting.objectives import denoising, value_and_gradient
from redcloak.crafting.rules import Plan
from redcloak.crafting.surrogate import Surrogate, SurrogateConfig
from redcloak.memory import Aside, must_park
from redcloak.registry import load
from redcloak.rng import generator, generators
from redcloak.suite import Suite
from redcloak.tiles import spans, tiled
from redcloak.training.finetuning import FineTune, Latents, trainable

SHORT = {"rounds": 2, "clean_steps": 2, "ascent_steps": 2, "protected_steps": 2, "lr": 3e-3}
LONG = {
    "advdm": {"steps": 3, "step_size": 3.0},
    "aspl": SHORT,
    "easpl": SHORT,
    "simac": SHORT,
    "disdiff": SHORT,
    "fsmg": {"train_steps": 2, "steps": 2, "lr": 3e-3},
    "efsmg": {"train_steps": 2, "rounds": 2, "ascent_steps": 2, "lr": 3e-3},
    "metacloak": {"train_steps": 2, "snapshots": 2, "rounds": 1, "unroll": 2, "ascent_steps": 2, "lr": 3e-3},
}


@pytest.fixture(params=["beside", "disk", "full disk"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where values are laid aside."""
    if request.param == "full disk":

        class Full:
            def write(self, data: object) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            def close(self) -> None: ...

        monkeypatch.setattr(memory.tempfile, "TemporaryFile", lambda dir: Full())
    return request.param


def test_what_was_laid_aside_comes_back_to_the_bit(place: str):
    kept = [torch.randn(3, 5), torch.randn(7).bfloat16(), torch.arange(4.0)[::2], torch.tensor(2.5)]
    tensors = [tensor.clone() for tensor in kept]
    aside = Aside(tensors, "auto" if place == "beside" else "low")
    assert (aside.file is not None) == (place == "disk")
    for _ in range(2):
        for tensor in tensors:
            tensor.zero_()
        aside.restore(tensors)
        assert all(torch.equal(*pair) for pair in zip(tensors, kept, strict=True))


def test_auto_lays_aside_what_is_over_an_eighth_of_the_free_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "free", lambda device: 8000.0)
    assert not must_park([torch.zeros(250)], "auto")
    assert must_park([torch.zeros(251)], "auto")
    assert must_park([torch.zeros(1)], "low")
    assert not must_park([], "low")


def test_free_memory_is_known_here():
    assert 2**20 < memory.free(torch.device("cpu")) < 2**50


@pytest.mark.parametrize(("device", "changed"), [("cpu", False), ("cuda:1", True)])
def test_float32_on_a_gpu_is_float32(device: str, changed: bool):
    with torch.backends.cudnn.flags(allow_tf32=True, deterministic=False):
        memory.exact(device)
        assert torch.backends.cudnn.allow_tf32 is not changed
        assert torch.backends.cudnn.deterministic is changed
    assert not torch.backends.cuda.matmul.allow_tf32


def test_what_torch_keeps_unused_on_a_gpu_is_free(monkeypatch: pytest.MonkeyPatch):
    sizes = {"mem_get_info": (1000, 9000), "memory_reserved": 600, "memory_allocated": 250}
    for name, size in sizes.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, size=size: size)
    assert memory.free(torch.device("cuda")) == 1350


@pytest.mark.parametrize("name", LONG)
def test_low_memory_gives_the_same_bytes(name: str, photos: Tensor, context: Context, suite_folder: Path):
    entry = load("protect", name)
    config = entry.configure(**LONG[name])
    results = []
    for policy in ("auto", "low"):
        suite = Suite(suite_folder, Machine(memory=policy))
        before = checksum(suite.backbone)
        assert suite.backbone.unet.is_gradient_checkpointing == (policy == "low")
        there = Context(suite, class_images=context.class_images)
        results.append(entry.function(photos, config, there, generators(0, "p", len(photos))))
        assert checksum(suite.backbone) == before
    assert torch.equal(*results)


@pytest.mark.parametrize("name", ["aspl", "easpl", "efsmg", "fsmg", "metacloak"])
def test_no_moments_lie_beside_an_ascent_where_memory_is_low(
    name: str, photos: Tensor, suite_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    tunings, beside, make = [], [], FineTune.__init__

    def kept(self: FineTune, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        tunings.append(weakref.ref(self))

    def watched(*args: Any) -> tuple[Tensor, Tensor]:
        living = [tuning for each in tunings if (tuning := each())]
        slots = [slot for tuning in living for slot in tuning.optimizer.state.values()]
        beside.append(sum(slot["exp_avg"].numel() for slot in slots))
        return value_and_gradient(*args)

    monkeypatch.setattr(FineTune, "__init__", kept)
    monkeypatch.setattr("redcloak.crafting.ascent.value_and_gradient", watched)
    entry = load("protect", name)
    there = Context(Suite(suite_folder, Machine(memory="low")))
    entry.function(photos, entry.configure(**LONG[name]), there, generators(0, "p", len(photos)))
    assert beside
    assert set(beside) == {0}


def test_an_idle_optimizer_goes_on_as_if_it_had_not_rested(suite_folder: Path, photos: Tensor):
    trained = []
    for rests in (False, True):
        backbone = Suite(suite_folder, Machine(memory="low")).backbone
        with backbone.borrowed() as parameters:
            tuning = FineTune(backbone, "a photo", lr=1e-3)
            latents = Latents.of(backbone, photos)
            tuning.train(latents, 2, generator(0, "a"))
            if rests:
                with tuning.idle():
                    slots = tuning.optimizer.state.values()
                    assert all(slot["exp_avg"].numel() == 0 for slot in slots)
            tuning.train(latents, 2, generator(0, "b"))
            trained.append([parameter.detach().clone() for parameter in parameters])
    assert all(torch.equal(*pair) for pair in zip(*trained, strict=True))


def test_a_surrogate_s_snapshot_is_on_disk_where_memory_is_low(suite_folder: Path, photos: Tensor):
    suite = Suite(suite_folder, Machine(memory="low"))
    with suite.backbone.borrowed():
        surrogate = Surrogate(suite.backbone, Context(suite), SurrogateConfig(lr=1e-3), generator(0, "s"))
        assert surrogate.values().file is not None


@pytest.mark.parametrize(("precision", "error"), [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision_is_near_the_whole(
    precision: str, error: float, suite: Suite, suite_folder: Path, photos: Tensor
):
    half = Suite(suite_folder, Machine(precision=precision))
    assert next(half.backbone.vae.parameters()).element_size() == 2
    found = [
        value_and_gradient(denoising(each.backbone, "a photo of person"), photos, generators(0, "x", 3))
        for each in (suite, half)
    ]
    (losses, gradient), (half_losses, half_gradient) = found
    assert half_losses.dtype == half_gradient.dtype == torch.float32
    assert torch.allclose(half_losses, losses, rtol=error)
    assert nn.functional.cosine_similarity(gradient.flatten(1), half_gradient.flatten(1)).min() > 1 - error


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_what_trains_is_whole_and_what_is_handed_back_as_it_was(precision: str, suite_folder: Path, photos: Tensor):
    backbone = Suite(suite_folder, Machine(precision=precision)).backbone
    before = checksum(backbone)
    with backbone.borrowed() as parameters:
        assert all(parameter.dtype == torch.float32 for parameter in parameters)
        kept = [parameter.detach().clone() for parameter in parameters]
        FineTune(backbone, "a photo", lr=1e-6).train(Latents.of(backbone, photos), 2, generator(0, "a"))
        moved = [not torch.equal(*pair) for pair in zip(parameters, kept, strict=True)]
        assert sum(moved) > 0.9 * len(moved)  # a step of 1e-6 is below the spacing of half precision
    assert checksum(backbone) == before
    assert all(parameter.element_size() == 2 and parameter.grad is None for parameter in parameters)


def test_an_overflow_of_half_precision_costs_the_step_and_not_the_model(suite_folder: Path, photos: Tensor):
    backbone = Suite(suite_folder, Machine(precision="fp16")).backbone
    with backbone.borrowed() as parameters, trainable(parameters):
        tuning = FineTune(backbone, "a photo", lr=1e-3)
        kept = [parameter.detach().clone() for parameter in parameters]
        tuning._descend(parameters[0].sum() * torch.inf)
        assert all(torch.equal(*pair) for pair in zip(parameters, kept, strict=True))


@pytest.mark.parametrize(("kind", "name"), [("protect", "caat"), ("protect", "glaze"), ("purify", "impress")])
def test_losses_are_scaled_in_fp16_alone(
    kind: Kind, name: str, suite_folder: Path, photos: Tensor, monkeypatch: pytest.MonkeyPatch
):
    entry, results, grad, given = load(kind, name), [], torch.autograd.grad, []

    def noted(loss: Tensor, *args: Any) -> Any:
        given.append(float(loss.detach()))
        return grad(loss, *args)

    monkeypatch.setattr(torch.autograd, "grad", noted)
    for precision, scale in (("fp16", memory.LOSS_SCALE), ("fp32", 1.0)):
        suite = Suite(suite_folder, Machine(precision=precision))
        entry.function(photos[:1], entry.configure(steps=1), Context(suite), generators(0, "p", 1))
        results.append(given[-1] / scale)
    assert results[0] == pytest.approx(results[1], rel=0.05)


def test_precision_is_part_of_what_a_backbone_is(suite_folder: Path):
    whole, half = Suite(suite_folder), Suite(suite_folder, Machine(precision="bf16"))
    assert half.fingerprint("backbone") != whole.fingerprint("backbone")
    assert half.fingerprint("clip") == whole.fingerprint("clip")
    assert Suite(suite_folder, Machine(memory="low")).fingerprint("backbone") == whole.fingerprint("backbone")


@pytest.mark.parametrize("length", [96, 104, 256, 640])
def test_the_middles_of_tiles_cover_each_latent_once(length: int):
    covered = []
    for begin, end, first, last in spans(length, 256, 2):
        assert 0 <= first <= begin < end <= last <= length // 2
        assert first == 0 or begin - first >= 8
        assert last == length // 2 or last - end >= 8
        assert last - first == min(128, length // 2)
        covered += range(begin, end)
    assert covered == list(range(length // 2))


def test_tiles_of_a_local_encoder_give_its_value_and_gradient():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.SiLU(), nn.Conv2d(4, 4, 3, 1, 1)).requires_grad_(False)
    images = torch.rand(2, 3, 100, 132, requires_grad=True)

    def encode(pictures: Tensor) -> tuple[Tensor, Tensor]:
        found = net(pictures)
        return found[:, :2], found[:, 2:]

    pairs = encode(images), tiled(encode, images, 64, 2)
    gradients = [torch.autograd.grad(sum(part.pow(2).sum() for part in pair), images)[0] for pair in pairs]
    assert all(torch.allclose(*parts, atol=1e-6) for parts in zip(*pairs, strict=True))
    assert torch.allclose(*gradients, atol=1e-6)


def test_large_photos_are_encoded_in_tiles_near_the_whole(suite: Suite, monkeypatch: pytest.MonkeyPatch):
    backbone, image = suite.backbone, torch.rand(1, 3, 160, 128, requires_grad=True)
    whole = backbone.encode(image)
    monkeypatch.setattr("redcloak.backbone.WHOLE", 128)
    monkeypatch.setattr("redcloak.backbone.TILE", 96)
    parts = backbone.encode(image)
    assert parts.shape == whole.shape
    assert not torch.equal(parts, whole)
    assert nn.functional.cosine_similarity(parts.flatten(), whole.flatten(), dim=0) > 0.9
    assert torch.autograd.grad(parts.sum(), image)[0].ne(0).any()


def test_large_photos_that_climb_together_go_singly(photos: Tensor, context: Context, monkeypatch: pytest.MonkeyPatch):
    seen = []
    loss = denoising(context.suite.backbone, "a photo")

    def objective(images: Tensor, streams: object, rows: slice) -> Tensor:
        seen.append((len(images), rows))
        return loss(images, streams, rows)

    plan = Plan(Budget.of_255(8), 1 / 255, 2)
    results = []
    for size in (128 * 128, 1):
        monkeypatch.setattr("redcloak.crafting.ascent.SMALL", size)
        results.append(ascend(photos, photos, objective, generators(0, "p", 3), plan, together=True))
    assert seen == [(3, slice(0, 3))] * 2 + [(1, slice(row, row + 1)) for row in range(3)] * 2
    assert (results[0] - results[1]).abs().mean() < 0.3 / 255
