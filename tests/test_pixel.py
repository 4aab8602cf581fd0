"""The pixel-diffusion model against diffusers' own scheduler, and the two purifiers that need no grid."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from pydantic import ValidationError
from torch import Tensor

from redcloak.api import Context, Machine
from redcloak.errors import UserError
from redcloak.models.pixel import CLEAN, PixelDiffusion, pictures, respaced
from redcloak.purify import ddspure, diffpure
from redcloak.purify.ddspure import matching_step, released_index
from redcloak.purify.diffpure import Schedule, reverse_sde
from redcloak.purify.upscale import resize
from redcloak.rng import generators, randn
from redcloak.suite import Suite

BETAS = torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)


def scheduler(**settings) -> DDPMScheduler:
    """diffusers' own, in double precision: in single, the beta of its first steps has three digits."""
    found = DDPMScheduler(1000, 0.0001, 0.02, "linear", clip_sample=True, **settings)
    found.alphas_cumprod, found.one = (1 - BETAS).cumprod(0), torch.tensor(1.0).double()
    return found


class Answers:
    """A UNet that answers by a function of state and step, and remembers the steps."""

    def __init__(self, answer, side: int = 32):
        self.answer, self.told = answer, []
        self.config = SimpleNamespace(sample_size=side, block_out_channels=(8, 16, 16, 16))

    def __call__(self, state: Tensor, step: int) -> SimpleNamespace:
        self.told.append(step)
        return SimpleNamespace(sample=self.answer(state, step))


def model_of(answer, variance="fixed_small", **settings) -> PixelDiffusion:
    return PixelDiffusion(Answers(answer, **settings), (1 - BETAS).cumprod(0), torch.device("cpu"), variance)


def gaussian(mean: float, deviation: float) -> PixelDiffusion:
    """The exact noise predictor of pictures whose values, in [-1, 1], are independent and normal."""

    def answer(state: Tensor, step: int) -> Tensor:
        power = float((1 - BETAS).cumprod(0)[step])
        variance = power * deviation**2 + 1 - power
        return math.sqrt(1 - power) * (state - math.sqrt(power) * mean) / variance

    return model_of(answer)


def silent(state: Tensor, step: int) -> Tensor:
    return torch.zeros_like(state)


def suited(model: PixelDiffusion) -> Context:
    return Context(SimpleNamespace(pixel=model))


def purify(module, images: Tensor, context: Context, seed: int = 0, **settings) -> Tensor:
    function = getattr(module, module.__name__.rsplit(".", 1)[1])
    return function(images, module.Config(**settings), context, generators(seed, "p", len(images)))


@pytest.fixture
def half_noise(suite: Suite, photos: Tensor) -> Tensor:
    return suite.pixel.noised(photos, 300, generators(0, "n", len(photos)))


@pytest.mark.parametrize("step", [0, 1, 23, 500, 999])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_a_step_is_diffusers_own(step: int, variance: str, photos: Tensor, monkeypatch: pytest.MonkeyPatch):
    from diffusers.schedulers import scheduling_ddpm

    stream = torch.Generator().manual_seed(3)
    channels = 6 if variance == "learned_range" else 3
    answer = torch.randn((len(photos), channels, 64, 64), generator=stream).clamp(-1, 1)
    model = model_of(lambda state, step: answer, variance)
    state = model.noised(photos, step, generators(0, "n", len(photos)))
    noise = randn(state, generators(1, "n", len(photos)))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, **kwargs: noise)
    reference = scheduler(variance_type=variance)
    expected = reference.step(answer, step, state).prev_sample
    ours = model.step(state, step, step - 1, generators(1, "n", len(photos)))
    assert torch.allclose(ours, expected, atol=1e-5)
    look = reference.step(answer, step, state).pred_original_sample
    assert torch.allclose(model.predicted_clean(state, step), pictures(look), atol=2e-5)


def test_a_step_over_several_is_diffusers_own(photos: Tensor, monkeypatch: pytest.MonkeyPatch):
    from diffusers.schedulers import scheduling_ddpm

    model = model_of(lambda state, step: torch.sin(state * 3))
    state = model.noised(photos, 900, generators(0, "n", len(photos)))
    noise = randn(state, generators(1, "n", len(photos)))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, **kwargs: noise)
    reference = scheduler()
    reference.set_timesteps(10)
    expected = reference.step(torch.sin(state * 3), 900, state).prev_sample
    assert torch.allclose(model.step(state, 900, 800, generators(1, "n", len(photos))), expected, atol=1e-5)


@pytest.mark.parametrize("step", [0, 40, 700])
def test_noising_is_diffusers_own(step: int, suite: Suite, photos: Tensor):
    reference = scheduler()
    noise = randn(photos, generators(0, "n", len(photos)))
    expected = reference.add_noise(photos * 2 - 1, noise, torch.full((len(photos),), step))
    assert torch.allclose(suite.pixel.noised(photos, step, generators(0, "n", len(photos))), expected, atol=1e-5)


def test_a_walk_takes_every_step_down_to_the_clean_picture(photos: Tensor):
    model = model_of(silent)
    assert model.descent(4) == (3, 2, 1, 0, CLEAN)
    assert model.descent(0) == (CLEAN,)
    streams, stopped = generators(0, "w", len(photos)), generators(0, "w", len(photos))
    model.purified(photos, model.descent(4), streams)
    assert model.unet.told == [3, 2, 1, 0]
    for stream in stopped:  # the noise of the start and of three steps: none on the last
        torch.randn((4, 3, 64, 64), generator=stream)
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(streams, stopped, strict=True))
    with pytest.raises(UserError, match="steps = 1001: the pixel model has 1000"):
        model.descent(1001)


def test_a_walk_undoes_the_noise_that_it_is_told_of(photos: Tensor):
    """A model that knows the picture leads back to it exactly; one that sees no noise does not."""

    def knowing(state: Tensor, step: int) -> Tensor:
        power = float((1 - BETAS).cumprod(0)[step])
        return (state - math.sqrt(power) * (photos * 2 - 1)) / math.sqrt(1 - power)

    model = model_of(knowing)
    back = model.purified(photos, model.descent(30), generators(0, "w", len(photos)))
    assert torch.allclose(back, photos, atol=1e-5)
    blind = model_of(silent).purified(photos, model.descent(30), generators(0, "w", len(photos)))
    assert not torch.allclose(blind, photos, atol=1e-2)


def test_crops_of_an_image_share_its_stream_and_the_chunk_does_not_matter(suite: Suite, photos: Tensor):
    crops = torch.stack([photos[..., :32, :32], photos[..., 32:, 32:], photos[..., :32, 32:]], 1)
    walk = suite.pixel.descent(3)
    whole = suite.pixel.purified(crops, walk, generators(0, "w", 3))
    for batch in (1, 2, 4):
        parts = replace(suite.pixel, batch=batch).purified(crops, walk, generators(0, "w", 3))
        assert torch.allclose(parts, whole, atol=1e-5)
    alone = suite.pixel.purified(crops[1:2], walk, generators(0, "w", 3)[1:2])
    assert torch.allclose(alone, whole[1:2], atol=1e-5)


def test_respaced_steps_are_those_of_guided_diffusion():
    steps = respaced(1000, 250)
    assert (len(steps), steps[0], steps[-1]) == (250, 0, 999)
    assert [steps[index] for index in (100, 10, 16, 6)] == [401, 40, 64, 24]
    assert respaced(1000, 1000) == list(range(1000))


@pytest.mark.parametrize("settings", [{}, {"mode": "sde", "sde_size": 0.03, "t_star": 0.15}, {"tiles": True}])
def test_diffpure_asks_for_the_steps_it_says(settings: dict, photos: Tensor):
    model = model_of(silent, side=64)
    purify(diffpure, photos, suited(model), steps=5, **settings)
    assert model.unet.told == ([149, 119, 89, 59, 29] if "mode" in settings else [4, 3, 2, 1, 0])


@pytest.mark.parametrize("tiles", [True, False])
def test_diffpure_without_steps_is_the_picture(tiles: bool, photos: Tensor, wide: Tensor):
    context = suited(model_of(silent, side=64))
    assert torch.allclose(purify(diffpure, photos, context, steps=0, tiles=tiles), photos, atol=1e-6)
    expected = wide if tiles else resize(resize(wide, 64, 64), 48, 72)
    assert torch.allclose(purify(diffpure, wide, context, steps=0, tiles=tiles), expected, atol=1e-5)


@pytest.mark.parametrize(("mean", "deviation"), [(0.2, 0.3), (-0.1, 0.15)])
@pytest.mark.parametrize("settings", [{"steps": 150}, {"mode": "sde"}])
def test_purified_gaussian_pictures_keep_mean_and_variance(mean: float, deviation: float, settings: dict):
    """With the exact score, noising and walking back are a draw from the same law, whatever was there before."""
    stream = torch.Generator().manual_seed(0)
    clean = mean + deviation * torch.randn((2, 3, 64, 64), generator=stream)
    result = purify(diffpure, (clean + 1) / 2, suited(replace_side(gaussian(mean, deviation), 64)), **settings) * 2 - 1
    assert result.mean() == pytest.approx(mean, abs=0.02)
    assert result.std() == pytest.approx(deviation, rel=0.04)
    power = float((1 - BETAS).cumprod(0)[149])
    kept = power * deviation**2 / (power * deviation**2 + 1 - power)
    found = torch.corrcoef(torch.stack([result.flatten(), clean.flatten()]))[0, 1]
    assert float(found) == pytest.approx(kept, abs=0.03)


def replace_side(model: PixelDiffusion, side: int) -> PixelDiffusion:
    model.unet.config.sample_size = side
    return model


def test_the_sde_is_the_limit_of_the_schedule():
    schedule = Schedule.of(model_of(silent))
    assert (schedule.first, schedule.last) == pytest.approx((0.1, 20.0))
    for steps in (1, 20, 150, 1000):
        table = float((1 - BETAS).cumprod(0)[steps - 1])
        assert schedule.signal(steps / 1000) == pytest.approx(table, rel=0.02 if steps < 999 else 0.15)
    step, at = 1e-5, 0.4
    slope = (math.log(schedule.signal(at + step)) - math.log(schedule.signal(at - step))) / (2 * step)
    assert schedule.beta(at) == pytest.approx(-slope, rel=1e-6)


def test_one_step_of_the_sde_by_hand(photos: Tensor):
    model = model_of(lambda state, step: torch.cos(state))
    streams = generators(0, "s", len(photos))
    ours = reverse_sde(model, photos, 0.1, 0.1, generators(0, "s", len(photos)))
    beta, power = 0.1 + 19.9 * 0.1, math.exp(-0.1 * 0.1 - 19.9 * 0.1**2 / 2)
    start = power**0.5 * (photos * 2 - 1) + (1 - power) ** 0.5 * randn(photos, streams)
    drift = -0.5 * beta * start - beta * (-torch.cos(start) / (1 - power) ** 0.5)  # f - g^2 score, forward in time
    by_hand = start - drift * 0.1 + (beta * 0.1) ** 0.5 * randn(photos, streams)
    assert torch.allclose(ours, ((by_hand + 1) / 2).clamp(0, 1), atol=1e-5)
    assert model.unet.told == [99]


def test_the_sde_wants_a_linear_schedule(photos: Tensor):
    cosine = replace(model_of(silent), alphas_cumprod=torch.cos(torch.linspace(0.01, 1.5, 1000).double()) ** 2)
    with pytest.raises(UserError, match="mode = 'sde' needs a pixel model with linear betas; use mode=ddpm"):
        purify(diffpure, photos, suited(cosine), mode="sde")


def test_the_released_diffpure_starts_late_and_stops_early(photos: Tensor):
    model = model_of(silent)
    result = purify(diffpure, photos, suited(model), variant="released", batch=64)
    assert model.unet.told == respaced(1000, 250)[100:0:-1], "from step 401, and never step 0"
    assert model.unet.told[0] == 401
    assert result.min() >= 0
    with pytest.raises(UserError, match="step 250 of the released schedule: it has 250"):
        purify(diffpure, photos, suited(model), variant="released", steps=250)
    with pytest.raises(ValidationError, match="released variant has mode ddpm only"):
        diffpure.Config(variant="released", mode="sde")


def test_the_released_diffpure_shows_the_model_a_grey_picture(photos: Tensor):
    """Its input is in [0, 1] where the model expects [-1, 1], and its output taken for [0, 1] again."""
    seen: list[Tensor] = []

    def spy(state: Tensor, step: int) -> Tensor:
        seen.append(state)
        return torch.zeros_like(state)

    model = model_of(spy, side=64)
    result = purify(diffpure, photos, suited(model), variant="released", steps=1)
    power, last = (float((1 - BETAS).cumprod(0)[step]) for step in (4, 0))
    streams = generators(0, "p", 3)
    noise, fresh = randn(photos, streams), randn(photos, streams)
    state = power**0.5 * photos + (1 - power) ** 0.5 * noise
    assert torch.allclose(seen[0], state, atol=1e-6)
    beta = 1 - power / last
    clean = (state / power**0.5).clamp(-1, 1)
    mean = last**0.5 * beta / (1 - power) * clean + (power / last) ** 0.5 * (1 - last) / (1 - power) * state
    left = mean + (beta * (1 - last) / (1 - power)) ** 0.5 * fresh
    assert torch.allclose(result, left.clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 1, 4, 8, 11, 16, 64, 255])
def test_dds_takes_the_first_step_with_noise_enough(sigma: float):
    power, step = 1.0, -1
    while math.sqrt(1 - power) / math.sqrt(power) < 2 * sigma / 255:
        step += 1
        power *= 1 - (0.0001 + step * (0.02 - 0.0001) / 999)
    assert matching_step(model_of(silent), sigma / 255) == max(step, 0)


def test_dds_at_eleven_by_hand():
    """Sum of betas to step t: 1e-4 (t + 1) + 1.992e-5 t (t + 1) / 2; wanted: log(1 + (22/255)^2) = 0.007416."""
    total = [1e-4 * (t + 1) + 1.992e-5 * t * (t + 1) / 2 for t in (22, 23)]
    assert total[0] < 0.007416 < total[1]
    assert matching_step(model_of(silent), 11 / 255) == 23
    with pytest.raises(UserError, match="sigma = 25500: the pixel model's last step has less noise"):
        matching_step(model_of(silent), 100.0)


def test_dds_looks_once(photos: Tensor):
    model = model_of(lambda state, step: torch.tanh(state), side=64)
    result = purify(ddspure, photos, suited(model))
    assert model.unet.told == [23]
    power = float((1 - BETAS).cumprod(0)[23])
    noisy = power**0.5 * (photos * 2 - 1) + (1 - power) ** 0.5 * randn(photos, generators(0, "p", 3))
    clean = (noisy - (1 - power) ** 0.5 * noisy.tanh()) / power**0.5
    assert torch.allclose(result, ((clean.clamp(-1, 1)) + 1) / 2, atol=1e-6)


@pytest.mark.parametrize(("radius", "index", "step"), [(11, 10, 40), (16, 16, 64), (8, 6, 24)])
def test_the_released_dds_chooses_on_one_schedule_and_walks_on_another(
    radius: int, index: int, step: int, photos: Tensor
):
    model = model_of(silent)
    assert released_index(model, radius / 255) == index
    purify(ddspure, photos, suited(model), variant="released", sigma=radius)
    assert model.unet.told == respaced(1000, 250)[index:0:-1]
    assert model.unet.told[0] == step


@pytest.mark.parametrize("module", [diffpure, ddspure])
def test_pictures_of_another_size_are_resized_or_tiled(module, photos: Tensor, context: Context):
    long = torch.cat([photos, photos], -1)
    tiles, whole = (purify(module, long, context, tiles=tiles, **quick(module)) for tiles in (True, False))
    assert tiles.shape == whole.shape == long.shape
    sharp = lambda images: float(images.diff(dim=-1).abs().mean())  # noqa: E731
    assert sharp(whole) < 0.7 * sharp(tiles), "32 of 128 columns are left"
    assert not torch.equal(tiles, purify(module, long, context, tiles=True, window=16, **quick(module)))
    with pytest.raises(UserError, match="window = 19: the pixel model takes multiples of 2; give 20"):
        purify(module, long, context, window=19)


def quick(module) -> dict[str, int]:
    return {"steps": 2} if module is diffpure else {}


@pytest.mark.parametrize(("module", "settings"), [(diffpure, {"steps": 3}), (ddspure, {})])
def test_gradients_flow_and_are_those_of_differences(module, settings: dict, photos: Tensor, context: Context):
    soft = (0.3 + 0.4 * photos[:1]).double().float().requires_grad_(True)
    weights = torch.randn(soft.shape, generator=torch.Generator().manual_seed(0))
    value = (purify(module, soft, context, **settings) * weights).sum()
    (gradient,) = torch.autograd.grad(value, soft)
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        ends = [(purify(module, soft + sign * step, context, **settings) * weights).sum() for sign in (1, -1)]
    assert float(ends[0] - ends[1]) / 2e-2 == pytest.approx(float(gradient.norm()), rel=0.05)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_the_whole_and_has_its_own_fingerprint(
    precision: str, suite: Suite, suite_folder: Path, half_noise: Tensor
):
    half = Suite(suite_folder, Machine(precision=precision))
    assert next(half.pixel.unet.parameters()).element_size() == 2
    found, expected = (one.pixel.predicted_noise(half_noise, 300) for one in (half, suite))
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert (found - expected).abs().mean() < 0.03 * expected.abs().mean()
    assert half.fingerprint("pixel") == f"{suite.fingerprint('pixel')}:{precision}"
    assert half.fingerprint("restorer") == suite.fingerprint("restorer")


def test_low_memory_computes_activations_twice_and_the_same(suite: Suite, suite_folder: Path, photos: Tensor):
    low = Suite(suite_folder, Machine(memory="low"))
    assert low.pixel.unet.is_gradient_checkpointing
    gradients = []
    for one in (low, suite):
        images = photos.clone().requires_grad_(True)
        purify(diffpure, images, Context(one), steps=2).pow(2).sum().backward()
        gradients.append(images.grad)
    assert torch.allclose(*gradients, atol=1e-6)


@pytest.fixture
def folder(suite_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(suite_folder / "pixel", tmp_path / "pixel"))


def test_what_is_loaded_is_frozen_and_what_was_saved(suite: Suite, suite_folder: Path, half_noise: Tensor):
    saved = UNet2DModel.from_pretrained(suite_folder / "pixel").eval()
    assert not any(parameter.requires_grad for parameter in suite.pixel.unet.parameters())
    assert suite.pixel.native == 32
    with torch.no_grad():
        assert torch.allclose(suite.pixel.predicted_noise(half_noise, 7), saved(half_noise, 7).sample, atol=1e-5)
    assert torch.allclose(suite.pixel.alphas_cumprod, (1 - BETAS).cumprod(0), rtol=1e-5)


def test_a_folder_that_is_no_pixel_model_is_refused(folder: Path):
    weights, schedule = folder / "diffusion_pytorch_model.safetensors", folder / "scheduler_config.json"
    told = json.loads(schedule.read_text())
    for change, words in (
        ({"prediction_type": "v_prediction"}, "predicts 'v_prediction'; the pixel slot takes 'epsilon'"),
        ({"variance_type": "learned_range"}, "3 channels to 3 with variance 'learned_range'"),
        ({"variance_type": "learned"}, "with variance 'learned'"),
    ):
        schedule.write_text(json.dumps(told | change))
        with pytest.raises(UserError, match=words):
            PixelDiffusion.load(folder)
    schedule.unlink()
    with pytest.raises(UserError, match=r"has no scheduler_config\.json"):
        PixelDiffusion.load(folder)
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UserError, match="is a pickle, which can run code"):
        PixelDiffusion.load(folder)
    with pytest.raises(UserError, match="has no absent/"):
        PixelDiffusion.load(folder.parent / "absent")


def test_the_small_suite_s_own_model_removes_noise():
    from redcloak.images import to_tensor
    from redcloak.portraits import subject
    from redcloak.suite import load

    clean = to_tensor(subject(3, shots=2))
    context = Context(load("tiny"))
    noisy = (clean + 11 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    purified = purify(ddspure, noisy, context)
    assert (purified - clean).pow(2).mean() < 0.6 * (noisy - clean).pow(2).mean()
