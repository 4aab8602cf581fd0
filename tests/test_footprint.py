"""What training takes in memory: the count is that of the trainer itself, and agrees with what torch measures."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from redcloak.api import Machine
from redcloak.backbone import Backbone
from redcloak.cli import main
from redcloak.errors import UserError
from redcloak.generate import Sampling, generate
from redcloak.memory import AT_ONCE, at_once
from redcloak.suite import Suite, load
from redcloak.training import footprint as module
from redcloak.training.adam8bit import levels
from redcloak.training.finetuning import Latents
from redcloak.training.footprint import KINDS, STEPS, WAYS, configurations, footprint

PLAIN = {"as it is": WAYS["as it is"]}


def weights(suite: Suite, part: str) -> int:
    """Bytes of a part in float32."""
    module: nn.Module = getattr(suite.backbone, part)
    return sum(parameter.numel() * 4 for parameter in module.parameters())


@pytest.fixture(scope="module")
def tiny() -> Suite:
    return load("tiny")


def test_a_full_training_holds_weights_gradients_moments_and_a_copy(tiny):
    trained, frozen = weights(tiny, "unet") + weights(tiny, "text_encoder"), weights(tiny, "vae")
    peak = footprint(tiny, "dreambooth", PLAIN)["as it is"]
    assert 5 * trained + frozen < peak < 9 * trained + frozen  # the rest are activations


def test_memory_policies_take_less_and_each_does_its_part(tiny):
    full, low, half, eight = footprint(tiny, "dreambooth").values()
    trained = weights(tiny, "unet") + weights(tiny, "text_encoder")
    assert full > low >= half > eight
    assert half - eight > trained  # two moments of 4 bytes become two of about one
    full, low, half, _ = footprint(tiny, "lora").values()
    assert full >= low > half


def test_where_memory_is_short_the_copy_lies_elsewhere(tiny):
    wide, short = (footprint(tiny, "dreambooth", PLAIN, room)["as it is"] for room in (1e12, 1e6))
    assert wide - short == pytest.approx(weights(tiny, "unet") + weights(tiny, "text_encoder"), rel=1e-4)


def test_longer_training_takes_no_more(tiny, monkeypatch):
    short = footprint(tiny, "lora", PLAIN)["as it is"]
    monkeypatch.setattr(module, "STEPS", STEPS + 2)
    assert footprint(tiny, "lora", PLAIN)["as it is"] == short


def test_bigger_batches_take_more(tiny):
    ways = {str(size): (Machine(), {"batch": size}) for size in (1, 4)}
    one, four = footprint(tiny, "lora", ways).values()
    assert four > 1.5 * one


def test_counts_what_lives_at_once():
    with module._counting() as counted:
        for _ in range(5):
            torch.zeros(1024)  # gone before the next comes
        kept = torch.zeros(256)
        del kept
    assert counted.peak == 4096
    assert counted.live == 0


def test_matches_what_torch_allocates(tiny):
    """The same forward and backward pass, counted by torch's own profiler on real tensors."""
    config = {**configurations(tiny)["unet"]}
    from diffusers import UNet2DConditionModel

    def passes() -> None:
        unet = UNet2DConditionModel.from_config(config).eval()
        states = torch.randn(2, 16, config["cross_attention_dim"])
        unet(torch.randn(2, config["in_channels"], 16, 16), torch.tensor([3, 4]), states).sample.sum().backward()

    with module._counting() as counted:
        passes()
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        passes()
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert counted.peak == pytest.approx(peak, rel=0.05)


def test_a_suite_without_weights_is_known_by_its_shape():
    for name in ("sd15", "sd21"):
        shapes = configurations(load(name))
        assert set(shapes) == set(KINDS)
        with module._counting():
            backbone = module._backbone(shapes, Machine())
        count = sum(parameter.numel() for parameter in backbone.unet.parameters())
        assert count == {"sd15": 859_520_964, "sd21": 865_910_724}[name]  # as their authors publish them


def test_says_what_it_cannot_know(tmp_path):
    with pytest.raises(UserError, match="two text encoders"):
        footprint(load("sdxl"), "lora")
    (tmp_path / "suite.yaml").write_text("name: mine\ntitle: t\nresolution: 64\nbackbone: somebody/model\n")
    with pytest.raises(UserError, match="somebody/model is not on this machine"):
        footprint(load(str(tmp_path)), "lora")


def test_leaves_nothing_behind(tiny):
    footprint(tiny, "dreambooth", {"eight": (Machine(), {"optimizer": "adam8bit"})})
    assert type(levels(signed=True)) is torch.Tensor
    assert torch.get_default_dtype() == torch.float32
    assert nn.Linear(2, 2).to(torch.float16).weight.dtype == torch.float16


def test_doctor_tells_what_fits(capsys, monkeypatch):
    monkeypatch.setattr("redcloak.runtime.hardware.memory_mb", lambda: 680.0)
    assert main(["doctor", "--suite", "tiny"]) == 0
    told = capsys.readouterr().out
    assert "Training on suite tiny at 64 pixels" in told
    assert "0.66 GiB of this machine" in told
    rows = {line.split()[0]: line for line in told.splitlines() if line}
    assert "*" in rows["dreambooth"]
    assert "*" not in rows["textual_inversion"]


def test_doctor_tells_machines_too(capsys, monkeypatch):
    monkeypatch.setattr("redcloak.registry.names", lambda kind: ["lora"])
    monkeypatch.setattr(module, "WAYS", {name: WAYS[name] for name in ("as it is", "+ precision=bf16")})
    assert main(["doctor", "--suite", "tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["training"]["suite"], found["training"]["resolution"]) == ("tiny", 64)
    assert found["training"]["room"] > 0.6
    peaks = found["training"]["peaks"]["lora"]
    assert peaks["as it is"] > peaks["+ precision=bf16"] > 0.6
    assert not any(finding["essential"] and finding["advice"] for finding in found["findings"])


def test_doctor_says_what_it_cannot_tell(capsys, monkeypatch):
    monkeypatch.setattr("redcloak.registry.names", lambda kind: ["lora"])
    monkeypatch.setattr(module, "WAYS", {"odd": (Machine(), {"rank": 0})})
    assert main(["doctor", "--suite", "tiny"]) == 0
    assert "lora: trainer 'lora'" in capsys.readouterr().out
    assert main(["doctor", "--suite", "sdxl"]) == 2
    assert "two text encoders" in capsys.readouterr().err


def test_a_trainer_that_says_nothing_of_its_parameters_is_counted(tiny, monkeypatch):
    from redcloak.personalize.lora import Config

    whole = footprint(tiny, "lora", PLAIN)["as it is"]
    monkeypatch.delattr("redcloak.training.fitting.TrainerConfig.changes")
    monkeypatch.delattr(Config, "changes")
    assert footprint(tiny, "lora", PLAIN)["as it is"] > whole  # all that may train has a copy


@pytest.mark.parametrize("side", [64, 512])
def test_large_pictures_go_through_fewer_at_once(tiny, monkeypatch, side):
    assert [at_once(each) for each in (64, 256, 512, 4096)] == [AT_ONCE, AT_ONCE, 4, 1]
    seen: list[int] = []
    monkeypatch.setattr(Backbone, "sample", lambda self, prompts, *_, **__: seen.append(len(prompts)) or zeros(prompts))
    monkeypatch.setattr(Backbone, "posterior", lambda self, images: seen.append(len(images)) or (images, images))
    generate(tiny.backbone, ["a photo"], 17, 0, Sampling(steps=1), size=side)
    Latents.of(tiny.backbone, torch.zeros(17, 3, side, side))
    assert seen == ([16, 1] if side == 64 else [4, 4, 4, 4, 1]) * 2


def zeros(prompts):
    return torch.zeros(len(prompts), 3, 8, 8)
