"""Purifiers that work in the latents of the suite's backbone, or through its upscaler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file
from torch import Tensor

from redcloak.api import Context, Kind, Subject
from redcloak.cli.options import configuration
from redcloak.errors import UserError
from redcloak.models import lpips as network
from redcloak.models.lpips import Lpips
from redcloak.padding import on_grid
from redcloak.protect import glaze
from redcloak.purify import impress, latent_diffpure, noisy_upscaling, vae_loop
from redcloak.purify.latent_diffpure import ancestral, schedule
from redcloak.purify.upscale import resize
from redcloak.registry import load
from redcloak.rng import generators, randn


def purify(module, images: Tensor, context: Context, seed: int = 0, **settings) -> Tensor:
    function = getattr(module, module.__name__.rsplit(".", 1)[1])
    with torch.no_grad():
        return function(images, module.Config(**settings), context, generators(seed, "p", len(images)))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (61, 70), (3, 5), (8, 1)])
def test_padding_is_cut_again(height: int, width: int):
    images = torch.rand(2, 3, height, width)
    sizes = []

    def function(padded: Tensor) -> Tensor:
        sizes.append(padded.shape[-2:])
        return padded * 2

    assert torch.equal(on_grid(function, images, 8), images * 2)
    assert all(side % 8 == 0 for side in sizes[0])


def test_the_autoencoder_s_loop(photos: Tensor, context: Context):
    backbone = context.suite.backbone
    once = backbone.decode(backbone.encode(photos, generators(0, "p", 3)))
    assert torch.equal(purify(vae_loop, photos, context), once)
    mean = backbone.decode(backbone.encode(photos))
    assert torch.equal(purify(vae_loop, photos, context, sample=False), mean)
    twice = purify(vae_loop, mean, context, sample=False)
    assert torch.allclose(purify(vae_loop, photos, context, sample=False, passes=2), twice, atol=1e-6)


def test_without_diffusion_it_is_the_autoencoder(photos: Tensor, context: Context):
    assert torch.equal(purify(latent_diffpure, photos, context, start=0), purify(vae_loop, photos, context))


def test_every_diffusion_step_or_evenly_spaced_ones():
    assert schedule(300, 0).tolist() == list(range(300, -1, -1))
    assert schedule(300, 4).tolist() == [300, 200, 100, 0]
    assert schedule(2, 50).tolist() == [2, 1, 0]
    assert schedule(7, 1).tolist() == [7]


@pytest.mark.parametrize("steps", [5, 20])
def test_the_ancestral_steps_are_those_of_diffusers(steps: int, photos: Tensor, context: Context):
    backbone = context.suite.backbone
    latents, times = torch.randn(3, *backbone.encode(photos).shape[1:]), schedule(380, steps)
    with torch.no_grad():
        ours = ancestral(backbone, latents, "a photo", 3.0, times, generators(0, "a", 3))
        theirs, words = latents, backbone.embed(["", "a photo"])
        process = DDPMScheduler.from_config(
            backbone.scheduler.config, variance_type="fixed_small", clip_sample=False, timestep_spacing="leading"
        )
        process.set_timesteps(timesteps=times.tolist())
        streams = generators(0, "a", 3)
        for time in process.timesteps:
            rows = []
            for latent in torch.split(theirs, 1):
                pair = backbone.unet(latent.expand(2, -1, -1, -1), time, words).sample
                rows.append(pair[:1] + 3.0 * (pair[1:] - pair[:1]))
            step = process.step(torch.cat(rows), time, theirs, generator=torch.Generator().manual_seed(0))
            mean = step.prev_sample
            if time > 0:  # the scheduler's noise for ours
                spread = process._get_variance(time).sqrt()
                own = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(0))
                mean = mean - spread * own + spread * randn(theirs, streams)
            theirs = mean
    assert torch.allclose(ours, theirs, atol=2e-3, rtol=1e-3)


def test_a_prompt_is_guided_towards_and_none_costs_half(
    photos: Tensor, context: Context, monkeypatch: pytest.MonkeyPatch
):
    backbone, rows, asked = context.suite.backbone, [], []
    predict, embed = backbone.predicted_noise, backbone.embed

    def spy(latents, times, words):
        rows.append(len(latents))
        return predict(latents, times, words)

    monkeypatch.setattr(backbone, "predicted_noise", spy)
    monkeypatch.setattr(backbone, "embed", lambda prompts: asked.append(prompts[0]) or embed(prompts))
    dog = replace(context, subject=Subject("dog"))
    results = [
        purify(latent_diffpure, photos, dog, start=100, steps=2, **more)
        for more in ({}, {"variant": "released"}, {"prompt": ""}, {"prompt": "a {class_noun}"})
    ]
    assert rows == [6, 6, 6, 6, 3, 3, 6, 6]
    assert [words for words in asked if words] == [
        "a photo of dog, high quality, highres",
        "a photo of a dog, clear, high resolution, high quality, noise-free",
        "a dog",
    ]
    assert not torch.equal(results[0], results[2])


def test_further_diffusion_changes_more(photos: Tensor, context: Context):
    near, far = (purify(latent_diffpure, photos, context, start=start, steps=5) for start in (20, 800))
    loop = purify(vae_loop, photos, context)
    assert (near - loop).abs().mean() < (far - loop).abs().mean()


def test_impress_makes_the_autoencoder_reproduce_the_picture(photos: Tensor, context: Context):
    losses: list[float] = []
    heard = replace(context, progress=lambda done, total, values: losses.append(values["loss"]))
    purified = purify(impress, photos, heard, steps=30)
    assert len(losses) == 30
    assert losses[-1] < 0.95 * losses[0]
    assert purified.shape == photos.shape


def test_impress_stays_near_where_distance_is_dear(photos: Tensor, context: Context):
    free, dear = (
        purify(impress, photos, context, steps=30, noise=0.0, allowed=0.0, weight=weight) for weight in (0.0, 100.0)
    )
    assert context.suite.perceptual(dear, photos).mean() < 0.5 * context.suite.perceptual(free, photos).mean()


def test_impress_is_adam_on_a_cosine(photos: Tensor, context: Context):
    backbone, image = context.suite.backbone, photos[:1]
    streams = generators(0, "p", 1)
    x = ((image + 0.05 * randn(image, streams)).clamp(0, 1) * 2 - 1).requires_grad_(True)
    adam = torch.optim.Adam([x], lr=0.01, eps=1e-5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=4, eta_min=1e-5)
    for _ in range(4):
        pixels = (x + 1) / 2
        back = backbone.decode(backbone.encode(pixels, streams), clamp=False) * 2 - 1
        far = (context.suite.perceptual(pixels, image) - 0.001).clamp_min(0)
        loss = (back - x).pow(2).mean() + 0.1 * far.sum()
        (x.grad,) = torch.autograd.grad(loss, x)
        adam.step()
        cosine.step()
        x.data.clamp_(-1, 1)
    ours = purify(impress, image, context, steps=4, allowed=0.001)
    assert torch.allclose(ours, (x.detach() + 1) / 2, atol=1e-3)


@pytest.fixture
def lpips_file(tmp_path: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Lpips("alex")
    save_file({name: value + name.startswith("heads") for name, value in net.state_dict().items()}, tmp_path / "l")
    return tmp_path / "l"


def test_impress_takes_lpips_from_a_file_and_no_clip(photos: Tensor, context: Context, lpips_file: Path):
    bare = replace(context, suite=SimpleNamespace(backbone=context.suite.backbone, device="cpu"))
    more = {"steps": 12, "noise": 0.0, "allowed": 0.0, "lpips": lpips_file}
    free, dear = (purify(impress, photos[:1], bare, weight=weight, **more) for weight in (0.0, 1000.0))
    distance = network.load(lpips_file)
    assert distance(dear, photos[:1]) < 0.5 * distance(free, photos[:1])


def test_glaze_takes_lpips_from_a_file_and_no_clip(photos: Tensor, context: Context, lpips_file: Path):
    bare = replace(context, suite=SimpleNamespace(backbone=context.suite.backbone, device="cpu"))
    more = {"steps": 12, "bound": 0.0, "budget": 32, "lpips": lpips_file}
    configs = [glaze.Config(weight=weight, **more) for weight in (0.0, 1000.0)]
    free, dear = (glaze.glaze(photos[:1], config, bare, generators(0, "p", 1)) for config in configs)
    distance = network.load(lpips_file)
    assert distance(dear, photos[:1]) < 0.5 * distance(free, photos[:1])


@pytest.mark.parametrize(("kind", "name"), [("purify", "impress"), ("protect", "glaze")])
def test_what_measures_closeness_asks_for_what_it_uses(kind: Kind, name: str, lpips_file: Path, tmp_path: Path):
    entry = load(kind, name)
    assert entry.needs(entry.configure()) == ("backbone", "clip")
    config = entry.configure(lpips=lpips_file)
    config.check()
    assert entry.needs(config) == ("backbone",)
    assert "lpips" in config.key_fields()
    assert "lpips" not in entry.configure().key_fields(), "results from before it are still found"
    with pytest.raises(UserError, match=r"lpips = '.*none': no such file; make it with redcloak.convert.lpips"):
        entry.configure(lpips=tmp_path / "none").check()


@pytest.mark.parametrize("name", ["latent_diffpure", "noisy_upscaling"])
def test_an_empty_prompt_of_the_command_line_is_none(name: str):
    def settings(*pairs: str) -> dict[str, Any]:
        return configuration(None, [*pairs], "red_team", photos="drawn:1", red_team=name).red_team[0].settings

    entry = load("purify", name)
    assert entry.configure(**settings("prompt=")).prompt == ""
    assert entry.configure(**settings()).prompt is None


@pytest.mark.parametrize("prompt", [None, "a portrait"])
def test_the_upscaler_is_told_of_noise_that_was_not_added(prompt: str | None, photos: Tensor, context: Context):
    seen = []

    class Spy:
        def upscaler(self, images, words, level, streams, added=None):
            seen.append((images, words, level, added))
            return context.suite.upscaler(images, words, level, streams, added=added)

    spied = replace(context, suite=Spy())
    result = purify(noisy_upscaling, photos, spied, shrink=2, prompt=prompt)
    small, words, level, added = seen[0]
    noisy = (photos + 0.1 * randn(photos, generators(0, "p", 3))).clamp(0, 1)
    assert torch.equal(small, resize(noisy, 32, 32))
    assert (words, level, added) == (prompt or "a photo of a person", 320, 0)
    assert result.shape == photos.shape


def test_an_upscaler_that_is_told_adds_only_what_it_should(photos: Tensor, context: Context):
    enlarge, streams = context.suite.upscaler, generators(0, "p", 3)
    told = [enlarge(photos, "", level, streams, added=0) for level in (20, 20, 300)]
    assert torch.equal(told[0], told[1])  # nothing was drawn
    assert torch.equal(
        enlarge(photos, "", 20, generators(1, "p", 3)), enlarge(photos, "", 20, generators(1, "p", 3), 20)
    )
