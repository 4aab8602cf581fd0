from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from redcloak.api import Context
from redcloak.backbone import Backbone
from redcloak.errors import UserError
from redcloak.personalize.dreambooth import Config, dreambooth
from redcloak.prompts import Decoupling
from redcloak.training.finetuning import FineTune, Latents, Prior, trainable

INSTANCE, CLASS = "a photo of sks person", "a photo of person"


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def state(backbone: Backbone) -> dict[str, Tensor]:
    parts = ("unet", "text_encoder")
    return {
        f"{part}.{name}": value.clone()
        for part in parts
        for name, value in getattr(backbone, part).state_dict().items()
    }


def changed(backbone: Backbone, before: dict[str, Tensor]) -> set[str]:
    after = state(backbone)
    return {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}


def textbook(
    backbone: Backbone, instance: Tensor, prior: Prior, seed: int
) -> tuple[Tensor, tuple[nn.Module, nn.Module]]:
    """The loss of diffusers' DreamBooth script on copies of the modules, with the draws of :class:`FineTune`."""
    unet, text = copy.deepcopy(backbone.unet), copy.deepcopy(backbone.text_encoder)
    for module in (unet, text):
        module.requires_grad_(True)
    process = DDPMScheduler.from_config(backbone.scheduler.config)
    draws = stream(seed)
    latents = torch.cat([instance, prior.latents.draw(len(instance), draws)])
    times = torch.randint(1000, (len(latents),), generator=draws)
    noise = torch.randn(latents.shape, generator=draws)
    prompts = [INSTANCE] * len(instance) + [CLASS] * len(instance)
    tokens = backbone.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    guess = unet(process.add_noise(latents, noise, times), times, text(tokens)[0], return_dict=False)[0]
    velocity = process.config.prediction_type == "v_prediction"
    target = process.get_velocity(latents, noise, times) if velocity else noise
    (guess, guess_prior), (target, target_prior) = guess.chunk(2), target.chunk(2)
    loss = F.mse_loss(guess, target) + prior.weight * F.mse_loss(guess_prior, target_prior)
    return loss, (unet, text)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("weight", "batch"), [(1.0, 1), (0.3, 2)])
def test_a_step_is_that_of_the_textbook(
    kind: str, weight: float, batch: int, backbone: Backbone, photos: Tensor, class_images: Tensor
):
    """The loss, the clipping of the gradient and AdamW, on copies of the modules and without our loop."""
    backbone = replace(backbone, scheduler=DDIMScheduler.from_config(backbone.scheduler.config, prediction_type=kind))
    prior = Prior(Latents.of(backbone, class_images), CLASS, weight)
    instance = Latents.of(backbone, photos).mean[:batch]
    expected, modules = textbook(backbone, instance, prior, seed=3)
    parameters = [parameter for module in modules for parameter in module.parameters()]
    expected.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    torch.optim.AdamW(parameters, 1e-3, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8).step()
    with backbone.borrowed() as lent, trainable(lent):
        tuning = FineTune(backbone, INSTANCE, lr=1e-3, prior=prior, batch=batch, clip=0.5)
        loss = tuning.step(instance, stream(3))
        assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
        far = max(float((a - b).detach().abs().max()) for a, b in zip(lent, parameters, strict=True))
    assert far < 1e-4, "a tenth of a step"


def test_without_a_prior_only_the_instance_counts(backbone: Backbone, photos: Tensor):
    instance = Latents.of(backbone, photos).mean[:2]
    draws = stream(1)
    times, noise = torch.randint(1000, (2,), generator=draws), torch.randn(instance.shape, generator=draws)
    process = DDPMScheduler.from_config(backbone.scheduler.config)
    guess = backbone.unet(process.add_noise(instance, noise, times), times, backbone.embed([INSTANCE] * 2)).sample
    with backbone.borrowed() as lent, trainable(lent):
        loss = FineTune(backbone, INSTANCE, lr=1e-3, batch=2).step(instance, stream(1))
    assert loss == pytest.approx(float(F.mse_loss(guess, noise)), rel=1e-5)


@pytest.mark.parametrize("text_encoder", [True, False])
def test_only_what_is_asked_is_trained(text_encoder: bool, photos: Tensor, context: Context, backbone: Backbone):
    before = state(backbone)
    with backbone.borrowed():
        dreambooth(photos, Config(steps=1, lr=1e-3, text_encoder=text_encoder), context, stream())
        assert changed(backbone, before) == ({"unet", "text_encoder"} if text_encoder else {"unet"})
    assert not changed(backbone, before)


def test_every_trainable_weight_of_the_unet_moves(photos: Tensor, context: Context, backbone: Backbone):
    before = state(backbone)
    with backbone.borrowed():
        dreambooth(photos, Config(steps=3, lr=1e-3), context, stream())
        after = state(backbone)
    still = [name for name, value in before.items() if name.startswith("unet") and torch.equal(value, after[name])]
    assert not still


def trained(photos: Tensor, context: Context, **settings) -> dict[str, Tensor]:
    backbone = context.suite.backbone
    with backbone.borrowed():
        dreambooth(photos, Config(**({"steps": 2, "lr": 1e-3} | settings)), context, stream())
        return state(backbone)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_prior_of_weight_zero_is_no_prior(photos: Tensor, context: Context):
    none = trained(photos, replace(context, class_images=None), prior_weight=0)
    assert same(trained(photos, context, prior_weight=0), none)
    assert not same(trained(photos, context), none)


@pytest.mark.parametrize("count", [None, 0])
def test_a_prior_without_class_pictures_is_a_mistake(count: int | None, photos: Tensor, context: Context):
    images = None if count is None else photos[:0]
    with pytest.raises(UserError, match=r"dreambooth: prior_weight > 0 needs class images; set class_images > 0"):
        trained(photos, replace(context, class_images=images))


def test_decoupling_changes_the_prompts_and_nothing_else(
    photos: Tensor, context: Context, monkeypatch: pytest.MonkeyPatch
):
    spoken: list[list[str]] = []
    embed = Backbone.embed
    monkeypatch.setattr(Backbone, "embed", lambda self, prompts: spoken.append(list(prompts)) or embed(self, prompts))
    plain = trained(photos, context, steps=1)
    silent = Decoupling(train_suffix=False)
    assert same(trained(photos, replace(context, decoupling=silent), steps=1), plain)
    assert not same(trained(photos, replace(context, decoupling=Decoupling()), steps=1), plain)
    told = ["a photo of sks person, bhj noisy pattern", "a photo of person, without bhj noisy pattern"]
    assert spoken == [[INSTANCE, CLASS], [INSTANCE, CLASS], told]


def test_the_loss_falls(photos: Tensor, context: Context, backbone: Backbone):
    latents = Latents.of(backbone, photos)
    with backbone.borrowed():
        tuning = FineTune(backbone, INSTANCE, lr=3e-3, batch=3)
        losses = [tuning.train(latents, 15, stream(turn)) for turn in range(3)]
    assert losses[2] < 0.9 * losses[0]


def test_nothing_takes_gradients_after_training(backbone: Backbone, photos: Tensor):
    latents = Latents.of(backbone, photos)
    with backbone.borrowed() as lent:
        FineTune(backbone, INSTANCE, lr=1e-3).train(latents, 1, stream())
        assert all(not parameter.requires_grad and parameter.grad is None for parameter in lent)


def test_the_optimizer_remembers_until_it_is_told_to_forget(backbone: Backbone, photos: Tensor):
    latents = Latents.of(backbone, photos)

    def after(turns: list[int], *, forget: bool) -> dict[str, Tensor]:
        with backbone.borrowed():
            tuning, draws = FineTune(backbone, INSTANCE, lr=1e-3), stream()
            for steps in turns:
                tuning.train(latents, steps, draws)
                if forget:
                    tuning.forget()
            return state(backbone)

    assert same(after([2, 2], forget=False), after([4], forget=False))
    assert not same(after([2, 2], forget=True), after([4], forget=False))


def test_latents_are_the_backbone_s_whatever_the_chunk(backbone: Backbone, photos: Tensor):
    posterior = backbone.vae.encode(photos * 2 - 1).latent_dist
    for chunk in (1, 2, 16):
        latents = Latents.of(backbone, photos, chunk=chunk)
        assert torch.allclose(latents.mean, posterior.mean * 0.7, atol=1e-6)
        assert torch.allclose(latents.std, posterior.std * 0.7, atol=1e-6)
    assert not Latents.of(replace(backbone, latent="mean"), photos).std.any()


def test_a_drawn_latent_has_the_posterior_s_moments():
    latents = Latents(torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), 0.5))
    drawn = latents.draw(4000, stream())
    assert torch.allclose(drawn.mean(0), latents.mean[0], atol=0.05)
    assert torch.allclose(drawn.std(0), latents.std[0], atol=0.05)


@pytest.mark.parametrize("count", [2, 5, 8, 13])
def test_pictures_are_drawn_without_repeats_as_far_as_they_last(count: int):
    latents = Latents(torch.arange(5.0).view(5, 1, 1, 1), torch.zeros(5, 1, 1, 1))
    drawn = latents.draw(count, stream(4)).flatten().int().tolist()
    assert len(drawn) == count
    for start in range(0, count, 5):
        assert len(set(drawn[start : start + 5])) == len(drawn[start : start + 5])
    assert latents.take(torch.tensor([3, 1]), stream()).flatten().tolist() == [3, 1]
