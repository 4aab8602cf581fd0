"""The backbone against what others wrote: diffusers' schedulers and pipeline, and the formulas themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline
from torch import Tensor

from redcloak.backbone import Backbone
from redcloak.generate import Sampling, generate
from redcloak.rng import generators, randint, randn

PROMPTS = ["a photo of sks person", "a smiling photo of sks person"]


@pytest.fixture(params=["epsilon", "v_prediction"])
def predicting(request: pytest.FixtureRequest, backbone: Backbone) -> Backbone:
    """The backbone, its UNet read as a predictor of the noise or of the velocity."""
    return replace(
        backbone, scheduler=DDIMScheduler.from_config(backbone.scheduler.config, prediction_type=request.param)
    )


def forward_process(backbone: Backbone) -> DDPMScheduler:
    kind = backbone.scheduler.config.prediction_type
    return DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, prediction_type=kind)


def target_of(process: DDPMScheduler, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    if process.config.prediction_type == "epsilon":
        return noise
    return process.get_velocity(latents, noise, times)


def test_the_encoder_s_latents_have_the_mean_and_the_spread_of_the_posterior(backbone: Backbone, photos: Tensor):
    posterior = backbone.vae.encode(photos * 2 - 1).latent_dist
    assert torch.allclose(backbone.encode(photos), posterior.mean * 0.7, atol=1e-6)
    noise = randn(posterior.mean, generators(0, "z", 3))
    sampled = backbone.encode(photos, generators(0, "z", 3))
    assert torch.allclose(sampled, (posterior.mean + posterior.std * noise) * 0.7, atol=1e-6)
    mean = replace(backbone, latent="mean").encode(photos, generators(0, "z", 3))
    assert torch.equal(mean, backbone.encode(photos))


def test_decoding_undoes_the_scale_and_the_range(backbone: Backbone, photos: Tensor):
    pictures = backbone.vae.decode(backbone.vae.encode(photos * 2 - 1).latent_dist.mean).sample
    assert torch.allclose(backbone.decode(backbone.encode(photos)), (pictures / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_prompts_are_padded_as_stable_diffusion_pads_them(backbone: Backbone):
    states = backbone.embed([PROMPTS[0], "word " * 200])
    assert states.shape == (2, 32, 32)
    tokens = backbone.tokenizer(PROMPTS[0]).input_ids
    padded = torch.tensor([tokens + [backbone.tokenizer.eos_token_id] * (32 - len(tokens))])
    assert torch.allclose(states[:1], backbone.text_encoder(padded)[0], atol=1e-6)


def test_the_forward_process_is_diffusers(predicting: Backbone, photos: Tensor):
    process, latents = forward_process(predicting), predicting.encode(photos)
    noise, times = randn(latents, generators(1, "n", 3)), torch.tensor([0, 500, 999])
    noisy, target = predicting.noised(latents, noise, times)
    assert torch.allclose(noisy, process.add_noise(latents, noise, times), atol=1e-6)
    assert torch.allclose(target, target_of(process, latents, noise, times), atol=1e-6)


def test_the_denoising_loss_is_that_of_the_training_script(predicting: Backbone, photos: Tensor):
    process, latents = forward_process(predicting), predicting.encode(photos)
    condition = predicting.embed([PROMPTS[0]] * 3)
    streams = generators(0, "loss", 3)
    times = randint(1000, streams)
    noise = randn(latents, streams)
    predicted = predicting.unet(process.add_noise(latents, noise, times), times, condition).sample
    error = (predicted - target_of(process, latents, noise, times)) ** 2
    losses = predicting.denoising_loss(latents, condition, generators(0, "loss", 3))
    assert len(set(times.tolist())) == 3
    assert torch.allclose(losses, error.flatten(1).mean(1), rtol=1e-5)


def test_guidance_of_one_asks_for_one_prompt(backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    rows, forward = [], backbone.unet.forward
    monkeypatch.setattr(backbone.unet, "forward", lambda z, *args: rows.append(len(z)) or forward(z, *args))
    for guidance in (1.0, 2.0):
        backbone.sample(PROMPTS, generators(3, "g", 2), steps=2, guidance=guidance)
    assert rows == [2, 2, 4, 4]


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_sampling_follows_the_formula(guidance: float, predicting: Backbone):
    """DDIM with eta = 0, written out: equation 12 of Song et al., steps as Stable Diffusion spaces them."""
    steps, power = 8, predicting.scheduler.alphas_cumprod
    times = [1 + 1000 // steps * index for index in reversed(range(steps))]
    z = randn(torch.empty(2, 4, 16, 16), generators(3, "g", 2))
    with torch.no_grad():
        yes, no = predicting.embed(PROMPTS), predicting.embed(["noisy"] * 2)
        for time in times:
            now, then = power[time], power[max(0, time - 1000 // steps)]
            plain, wanted = (predicting.unet(z, time, words).sample for words in (no, yes))
            guess = plain + guidance * (wanted - plain)
            if predicting.scheduler.config.prediction_type == "epsilon":
                noise, clean = guess, (z - (1 - now).sqrt() * guess) / now.sqrt()
            else:
                noise, clean = now.sqrt() * guess + (1 - now).sqrt() * z, now.sqrt() * z - (1 - now).sqrt() * guess
            z = then.sqrt() * clean + (1 - then).sqrt() * noise
        expected = predicting.decode(z)
    drawn = predicting.sample(PROMPTS, generators(3, "g", 2), steps=steps, guidance=guidance, negative="noisy")
    assert torch.allclose(drawn, expected, atol=1e-3)
    assert expected.std() > 0.01


def test_a_saved_model_does_not_tell_where_it_came_from(backbone: Backbone, suite_folder: Path, tmp_path: Path):
    backbone.save(tmp_path / "model")
    texts = [path.read_text() for path in (tmp_path / "model").rglob("*.json")]
    assert len(texts) >= 5
    assert not any(str(part) in text for text in texts for part in (suite_folder, Path.home()))


def test_a_saved_model_is_a_plain_diffusers_model(backbone: Backbone, tmp_path: Path):
    backbone.save(tmp_path / "model")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    latents = randn(torch.empty(2, 4, 16, 16), generators(3, "g", 2))
    theirs = pipeline(
        PROMPTS,
        negative_prompt=["noisy"] * 2,
        num_inference_steps=6,
        guidance_scale=4.0,
        latents=latents,
        output_type="pt",
    ).images
    again = Backbone.load(tmp_path / "model")
    drawn, original = (
        model.sample(PROMPTS, generators(3, "g", 2), steps=6, guidance=4.0, negative="noisy")
        for model in (again, backbone)
    )
    assert torch.allclose(drawn, theirs, atol=1e-4)
    assert torch.allclose(drawn, original, atol=2e-2), "more than half precision loses"
    assert original.std() > 0.01


def test_a_picture_does_not_know_its_companions(backbone: Backbone):
    both = backbone.sample(PROMPTS, generators(0, "g", 2), steps=3)
    alone = backbone.sample(PROMPTS[1:], generators(0, "g", 2)[1:], steps=3)
    assert torch.allclose(both[1:], alone, atol=1e-5)
    assert both.shape == (2, 3, 64, 64)
    assert not torch.allclose(both[0], both[1], atol=1e-3)


def test_the_size_of_what_is_drawn(backbone: Backbone):
    assert backbone.factor == 4
    assert backbone.sample(PROMPTS[:1], generators(0, "g", 1), steps=1, size=32).shape == (1, 3, 32, 32)


def test_all_prompts_start_from_the_same_noise(backbone: Backbone):
    quick = Sampling(steps=2)
    pictures, words = generate(backbone, [PROMPTS[0], PROMPTS[0]], 3, seed=1, sampling=quick)
    assert words == [PROMPTS[0]] * 6
    assert torch.allclose(pictures[:3], pictures[3:], atol=1e-5)
    assert len({picture.numpy().tobytes() for picture in pictures[:3]}) == 3
    pieces, _ = generate(backbone, [PROMPTS[0], PROMPTS[0]], 3, seed=1, sampling=quick, chunk=2)
    assert torch.allclose(pieces, pictures, atol=1e-5)
    other, _ = generate(backbone, PROMPTS[:1], 3, seed=2, sampling=quick)
    assert not torch.allclose(other, pictures[:3], atol=1e-3)


class Broken(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("text_encoder", [False, True])
def test_what_was_borrowed_comes_back_to_the_bit(fails: bool, text_encoder: bool, backbone: Backbone):
    before = {name: value.clone() for name, value in state(backbone).items()}

    def ruin() -> None:
        with backbone.borrowed(text_encoder=text_encoder) as parameters:
            for parameter in parameters:
                parameter.requires_grad_(True)
            sum(parameter.pow(2).sum() for parameter in parameters).backward()
            with torch.no_grad():
                for parameter in parameters:
                    parameter.mul_(float("nan"))
            changed = {name.split(".")[0] for name, value in state(backbone).items() if value.isnan().any()}
            assert changed == ({"unet", "text_encoder"} if text_encoder else {"unet"})
            if fails:
                raise Broken

    if fails:
        with pytest.raises(Broken):
            ruin()
    else:
        ruin()
    after = state(backbone)
    assert all(value.numpy().tobytes() == after[name].numpy().tobytes() for name, value in before.items())


def state(backbone: Backbone) -> dict[str, Tensor]:
    parts = ("vae", "unet", "text_encoder")
    return {f"{part}.{name}": value for part in parts for name, value in getattr(backbone, part).state_dict().items()}
