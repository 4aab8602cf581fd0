"""What is particular to each trainer, against what others wrote: diffusers' pipeline, its scripts, and the formulas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import quick
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from redcloak.api import Context, Machine
from redcloak.backbone import Backbone
from redcloak.personalize.lora import adapted, projections
from redcloak.registry import load, names
from redcloak.rng import generator, generators, randn
from redcloak.suite import Suite
from redcloak.training.finetuning import Latents

TRAINERS = names("personalize")
PROMPT = "a photo of sks person"


def values(backbone: Backbone) -> dict[str, Tensor]:
    parts = ("vae", "unet", "text_encoder")
    state = {f"{part}.{name}": value for part in parts for name, value in getattr(backbone, part).state_dict().items()}
    return {name: value.clone() for name, value in state.items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name][: len(value)])}


def train(name: str, photos: Tensor, context: Context, **settings: object) -> None:
    entry = load("personalize", name)
    entry.function(photos, quick(entry, **({"lr": 1e-2} | settings)), context, generator(0, name))


@pytest.mark.parametrize("name", TRAINERS)
def test_plain_diffusers_draws_what_was_trained(
    name: str, photos: Tensor, context: Context, backbone: Backbone, tmp_path: Path
):
    latents = randn(torch.empty(1, 4, 16, 16), generators(3, "g", 1))
    with backbone.borrowed():
        train(name, photos, context)
        backbone.save(tmp_path / "model")
        drawn = backbone.sample([PROMPT], generators(3, "g", 1), steps=3, guidance=4.0)
    untuned = backbone.sample([PROMPT], generators(3, "g", 1), steps=3, guidance=4.0)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline([PROMPT], num_inference_steps=3, guidance_scale=4.0, latents=latents, output_type="pt").images
    assert torch.allclose(theirs, drawn, atol=2e-2)
    assert (drawn - untuned).abs().max() > 2 * (theirs - drawn).abs().max(), "training shows"


@pytest.mark.parametrize(
    ("name", "settings", "touched"),
    [
        ("dreambooth", {"text_encoder": False}, {"unet."}),
        ("lora", {}, {"unet.", ".attn"}),
        ("lora", {"text_encoder": True}, {"unet.", "text_encoder.", "attn"}),
        ("textual_inversion", {}, set()),
        ("custom_diffusion", {"new_word": False}, {"unet.", ".attn2.to_"}),
        ("custom_diffusion", {}, {"unet.", ".attn2.to_"}),
    ],
)
def test_a_trainer_touches_what_it_says(
    name: str, settings: dict[str, object], touched: set[str], photos: Tensor, context: Context, backbone: Backbone
):
    before, config = values(backbone), load("personalize", name).configure(**settings)
    told = {id(parameter) for parameter in config.changes(backbone)}
    parts = ("vae", "unet", "text_encoder")
    allowed = {f"{p}.{n}" for p in parts for n, v in getattr(backbone, p).named_parameters() if id(v) in told}
    with backbone.borrowed(config.changes(backbone)):
        train(name, photos, context, **settings)
        after = values(backbone)
    changed = moved(before, after)
    assert changed <= allowed
    assert bool(changed) == bool(touched)
    assert {word for word in touched if any(word in each for each in changed)} == touched
    words = sum(len(after[name]) - len(value) for name, value in before.items() if "token_embedding" in name)
    assert words == (name == "textual_inversion" or (name == "custom_diffusion" and settings == {}))


@pytest.mark.parametrize("text_encoder", [False, True])
def test_fused_is_what_was_adapted(text_encoder: bool, backbone: Backbone, photos: Tensor):
    """Low rank, and the same function: the model with its adapters, and the one that has swallowed them."""
    config = load("personalize", "lora").configure(rank=2, text_encoder=text_encoder)
    z, times, before = Latents.of(backbone, photos).mean, torch.tensor([10, 500, 900]), values(backbone)

    def look() -> Tensor:
        with torch.no_grad():
            found: Tensor = backbone.unet(z, times, backbone.embed([PROMPT] * 3)).sample
        return found

    plain = look()
    with backbone.borrowed():
        with adapted(backbone, config, generator(0, "lora")) as parameters:
            assert torch.equal(look(), plain), "the second factor begins at zero"
            for parameter in parameters:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator(0, "b"))
            seen = look()
        assert torch.allclose(look(), seen, atol=1e-4)
        assert not torch.allclose(seen, plain, atol=1e-2)
        after, layers = values(backbone), projections(backbone, text_encoder=text_encoder)
    assert len(parameters) == 2 * len(layers)
    assert moved(before, after) == {f"{name}.weight" for name in layers}
    for name in layers:
        change = after[f"{name}.weight"] - before[f"{name}.weight"]
        assert torch.linalg.matrix_rank(change, rtol=1e-4) == 2


def test_the_word_is_that_of_diffusers_script(photos: Tensor, context: Context, backbone: Backbone):
    """Textual inversion as its script does it: train a whole larger table, and put the old rows back after a step."""
    config = load("personalize", "textual_inversion").configure(steps=3, lr=1e-2, batch=2, clip=1e9)
    with backbone.borrowed(config.changes(backbone)):
        load("personalize", "textual_inversion").function(photos, config, context, generator(0, "t"))
        learned = backbone.text_encoder.get_input_embeddings().weight[-1].detach().clone()
        tokens = backbone.tokenizer([PROMPT], padding="max_length", return_tensors="pt").input_ids
    old = backbone.text_encoder.get_input_embeddings()
    person = backbone.tokenizer("person", add_special_tokens=False).input_ids
    table = nn.Embedding.from_pretrained(torch.cat([old.weight.detach(), old.weight[person].detach()]), freeze=False)
    kept, optimizer, draws = (
        table.weight.detach()[:-1].clone(),
        torch.optim.AdamW([table.weight], 1e-2),
        generator(0, "t"),
    )
    backbone.text_encoder.set_input_embeddings(table)
    latents = Latents.of(backbone, photos)
    try:
        for _ in range(3):
            z = latents.draw(2, draws)
            times, noise = torch.randint(1000, (2,), generator=draws), torch.randn(z.shape, generator=draws)
            noisy, target = backbone.noised(z, noise, times)
            words = backbone.text_encoder(tokens.expand(2, -1))[0]
            nn.functional.mse_loss(backbone.unet(noisy, times, words).sample, target).backward()
            optimizer.step()
            optimizer.zero_grad()
            table.weight.data[:-1] = kept
    finally:
        backbone.text_encoder.set_input_embeddings(old)
    assert torch.allclose(learned, table.weight[-1].detach(), atol=1e-4)
    assert not torch.allclose(learned, old.weight[person[0]].detach(), atol=1e-2)


def test_a_new_word_of_custom_diffusion_begins_as_the_rare_token(photos: Tensor, context: Context, backbone: Backbone):
    (rare,) = backbone.tokenizer("sks", add_special_tokens=False).input_ids
    begun = backbone.text_encoder.get_input_embeddings().weight[rare].detach()
    with backbone.borrowed():
        train("custom_diffusion", photos, context, lr=1e-6)
        word = backbone.text_encoder.get_input_embeddings().weight[-1].detach()
        assert torch.allclose(word, begun, atol=1e-4)
        assert not torch.equal(word, begun)


@pytest.mark.parametrize("name", TRAINERS)
def test_what_the_unet_predicts_reaches_every_trainer(name: str, photos: Tensor, context: Context, backbone: Backbone):
    """That a step with a velocity is right is tested in tests/test_training.py; here, that it is one."""
    losses: list[float] = []
    told = replace(context, progress=lambda done, total, values: losses.append(values["loss"]))
    for kind in ("epsilon", "v_prediction"):
        with pytest.MonkeyPatch.context() as patch, backbone.borrowed():
            scheduler = DDIMScheduler.from_config(backbone.scheduler.config, prediction_type=kind)
            patch.setattr(backbone, "scheduler", scheduler)
            train(name, photos, told, steps=1)
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("name", TRAINERS)
def test_in_half_precision_every_trainer_trains(name: str, suite: Suite, photos: Tensor, class_images: Tensor):
    half = Suite(suite.folder, Machine(precision="bf16"))
    losses: list[float] = []
    context = Context(half, class_images=class_images, progress=lambda d, t, values: losses.append(values["loss"]))
    before, config = values(half.backbone), load("personalize", name).configure()
    with half.backbone.borrowed(config.changes(half.backbone)):
        train(name, photos, context, report_every=1)
        kept = {id(parameter) for parameter in config.changes(half.backbone)}
        everything = [*half.backbone.unet.parameters(), *half.backbone.text_encoder.parameters()]
        frozen = {parameter.dtype for parameter in everything if id(parameter) not in kept}
        assert name == "dreambooth" or torch.bfloat16 in frozen, "what does not train stays small"
    assert torch.tensor(losses).isfinite().all()
    assert not moved(before, values(half.backbone))
