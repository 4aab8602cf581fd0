"""PDM-Pure over the suite's pixel model, and over a small second stage of DeepFloyd's kind with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from redcloak.api import CPU, Context
from redcloak.errors import UserError
from redcloak.models.cascade import Cascade
from redcloak.models.pixel import CLEAN, respaced, sections
from redcloak.purify.pdm_pure import Config, pdm_pure, walk_of
from redcloak.purify.upscale import resize
from redcloak.registry import load
from redcloak.rng import generators, randn


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as diffusers stores IF-II, small enough to run in a test."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("stage")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        UNet2DConditionModel(
            sample_size=32, in_channels=6, out_channels=6, block_out_channels=(8, 16), layers_per_block=1,
            norm_num_groups=4, cross_attention_dim=16, attention_head_dim=8, encoder_hid_dim=24,
            encoder_hid_dim_type="text_proj", class_embed_type="timestep", resnet_time_scale_shift="scale_shift",
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        ).save_pretrained(folder / "unet")  # fmt: skip
        T5EncoderModel(T5Config(vocab_size=8, d_model=24, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(
            folder / "text_encoder"
        )
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "person": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(
        folder / "tokenizer"
    )
    DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2", variance_type="learned_range").save_pretrained(
        folder / "scheduler"
    )
    return folder


def purify(images: Tensor, context: Context, seed: int = 0, **settings) -> Tensor:
    with torch.no_grad():
        return pdm_pure(images, Config(**settings), context, generators(seed, "p", len(images)))


def test_the_walk_is_the_first_steps_of_the_thinned_schedule(context: Context):
    """IF keeps ten steps of the first tenth of the schedule; index 4 of them is step 44."""
    model = context.suite.pixel
    assert walk_of(model, Config()) == (44, 33, 22, 11, 0, CLEAN)
    later = walk_of(model, Config(respacing="10,10,10,10,10,0,0,0,0,0", start=44))
    assert (len(later), later[0], later[-2:]) == (46, 444, (0, CLEAN))
    assert walk_of(model, Config(respacing=10)) == (444, 333, 222, 111, 0, CLEAN)
    with pytest.raises(UserError, match=r"start = 10: the thinned schedule has 10 steps"):
        walk_of(model, Config(start=10))
    with pytest.raises(UserError, match="respacing = 'ten'"):
        load("purify", "pdm_pure").configure(respacing="ten")


def test_sections_are_guided_diffusion_s():
    assert sections(1000, [10, *[0] * 9]) == respaced(100, 10) == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert sections(10, [2, 1, 3]) == [0, 3, 4, 7, 8, 9]  # sections of 4, 3 and 3
    assert sections(1000, [250]) == respaced(1000, 250)


def test_it_keeps_the_picture(photos: Tensor, context: Context):
    """Of so little noise the small model comes back to within a few grey levels."""
    kept = (purify(photos, context) - photos).abs().mean()
    lost = (purify(photos, context, respacing=10) - photos).abs().mean()
    assert kept < lost / 2


def test_without_weights_it_is_the_suite_s_pixel_model_then_its_upscaler(photos: Tensor, context: Context):
    streams, model = generators(0, "p", 3), replace(context.suite.pixel, batch=3)
    with torch.no_grad():
        back = resize(
            model.purified(resize(photos, model.native, model.native), walk_of(model, Config()), streams), 64, 64
        )
        assert torch.equal(purify(photos, context, enlarge=False), back)
        words = f"a photo of a {context.subject.class_noun}"
        streams = generators(0, "p", 3)
        back = model.purified(resize(photos, model.native, model.native), walk_of(model, Config()), streams)
        large = context.suite.upscaler(back, words, 20, streams)
        assert torch.equal(purify(photos, context), resize(large, *photos.shape[-2:]))


def test_only_the_models_that_are_used_are_asked_for(stage: Path):
    entry = load("purify", "pdm_pure")
    needs = {
        (enlarge, own): entry.needs(entry.configure(enlarge=enlarge, **({} if own else {"weights": stage})))
        for enlarge in (True, False)
        for own in (True, False)
    }
    assert needs == {
        (True, True): ("pixel", "upscaler"), (False, True): ("pixel",), (True, False): ("upscaler",), (False, False): ()
    }  # fmt: skip


def test_the_second_stage_sees_the_picture_and_the_prompt(photos: Tensor, wide: Tensor, context: Context, stage: Path):
    results = {
        prompt: purify(photos, context, weights=stage, prompt=prompt, enlarge=False) for prompt in ("", "a person")
    }
    assert not torch.equal(*results.values())
    alone = purify(photos[1:2], context, weights=stage, enlarge=False)
    batch = purify(torch.cat([photos[1:2], 1 - photos[1:2]]), context, weights=stage, enlarge=False)
    assert torch.allclose(alone[0], batch[0], atol=1e-4)
    assert purify(wide, context, weights=stage).shape == wide.shape


def test_guidance_is_between_the_two_prompts(context: Context, stage: Path):
    cascade = Cascade.load(stage, CPU)
    shown, state = torch.rand(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        plain, far, none = (
            cascade.beside(shown, prompt, guidance, generators(0, "p", 2)).predicted_noise(state, 300)
            for prompt, guidance in (("a person", 1.0), ("a person", 3.0), ("", 3.0))
        )
    assert torch.allclose(far, none + 3 * (plain - none), atol=1e-4)
    other = cascade.beside(shown.flip(0), "a person", 1.0, generators(0, "p", 2))
    with torch.no_grad():
        assert not torch.allclose(other.predicted_noise(state, 300), plain)


def test_the_second_stage_sees_noise_of_the_level_that_it_is_told(context: Context, stage: Path, monkeypatch):
    cascade, told = Cascade.load(stage, CPU), {}

    def unet(state: Tensor, step: int, words: Tensor, class_labels: Tensor) -> SimpleNamespace:
        told.update(seen=state[:1, 3:], level=class_labels)
        return SimpleNamespace(sample=torch.zeros(len(state), 6, 32, 32))

    monkeypatch.setattr(cascade, "unet", unet)
    shown = torch.rand(1, 3, 32, 32)
    cascade.beside(shown, "a person", 7.0, generators(3, "p", 1)).predicted_noise(torch.randn(1, 3, 32, 32), 44)
    power = cascade.alphas_cumprod[250]
    noise = (told["seen"] - power.sqrt() * (shown * 2 - 1)) / (1 - power).sqrt()
    assert torch.allclose(noise.float(), randn(shown, generators(3, "p", 1)), atol=1e-4)
    assert set(told["level"].tolist()) == {250}


def test_the_second_stage_computes_in_full_precision_whatever_the_backbone_does(
    photos: Tensor, context: Context, stage: Path
):
    """The cache key of its weights names no precision, and T5 is not made for fp16."""
    low = replace(CPU, precision="bf16")
    half = SimpleNamespace(machine=low, device="cpu", upscaler=context.suite.upscaler)
    whole, same = (
        purify(photos[:1], each, weights=stage, enlarge=False) for each in (context, replace(context, suite=half))
    )
    assert torch.equal(whole, same)


def test_what_is_no_second_stage_is_refused(stage: Path, tmp_path: Path, suite_folder: Path):
    (tmp_path / "unet").symlink_to(suite_folder / "unet")
    (tmp_path / "scheduler").symlink_to(stage / "scheduler")
    with pytest.raises(UserError, match="it has no text_encoder/"):
        Cascade.load(tmp_path, CPU)
    for part in ("text_encoder", "tokenizer"):
        (tmp_path / part).symlink_to(stage / part)
    with pytest.raises(UserError, match="takes 4 channels; a second stage takes 6"):
        Cascade.load(tmp_path, CPU)
