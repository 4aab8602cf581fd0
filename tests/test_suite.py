from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import sign
from diffusers import DDPMScheduler

from redcloak import suite as suites
from redcloak.errors import UserError
from redcloak.models.slots import noise_spread
from redcloak.suite import Suite


@pytest.fixture
def copy(suite_folder: Path, tmp_path: Path) -> Path:
    """The suite's folder, to be damaged."""
    return Path(shutil.copytree(suite_folder, tmp_path / "copy"))


def rewrite(folder: Path, **lines: str) -> None:
    text = (folder / "suite.yaml").read_text().splitlines()
    kept = [line for line in text if line.split(":")[0] not in lines]
    (folder / "suite.yaml").write_text("\n".join(kept + [f"{name}: {value}" for name, value in lines.items()]))


def touch_weights(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


SLOTS = {
    "backbone": "unet/diffusion_pytorch_model.safetensors",
    "clip": "clip/text/model.safetensors",
    "restorer": "restorer/diffusion_pytorch_model.safetensors",
    "upscaler": "upscaler/diffusion_pytorch_model.safetensors",
    "quality": "quality/diffusion_pytorch_model.safetensors",
    "pixel": "pixel/diffusion_pytorch_model.safetensors",
}


@pytest.mark.parametrize("slot", SLOTS)
def test_altered_weights_are_refused(slot: str, copy: Path):
    touch_weights(copy / SLOTS[slot])
    with pytest.raises(UserError, match=f"suite small: {SLOTS[slot]} is damaged or missing"):
        getattr(Suite(copy), slot)
    (copy / SLOTS[slot]).unlink()
    with pytest.raises(UserError, match="damaged or missing"):
        getattr(Suite(copy), slot)


@pytest.mark.parametrize("slot", SLOTS)
def test_the_other_slots_are_not_read(slot: str, copy: Path):
    for other, weights in SLOTS.items():
        if other != slot:
            touch_weights(copy / weights)
    assert getattr(Suite(copy), slot)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("slot", SLOTS)
def test_a_fingerprint_follows_the_weights_of_its_slot_and_nothing_else(
    slot: str, signed: bool, copy: Path, suite: Suite
):
    rewrite(copy, title="another title", name="another")
    (copy / "README.md").write_text("words")
    if not signed:
        (copy / "manifest.json").unlink()
    assert all(Suite(copy).fingerprint(other) == suite.fingerprint(other) for other in SLOTS)
    touch_weights(copy / SLOTS[slot])
    if signed:
        sign(copy)
    changed = {other for other in SLOTS if Suite(copy).fingerprint(other) != suite.fingerprint(other)}
    assert changed == {slot}
    assert Suite(copy).fingerprint(*SLOTS) != suite.fingerprint(*SLOTS)


def test_a_hub_model_is_known_by_its_name_and_revision(copy: Path):
    (copy / "manifest.json").unlink()
    rewrite(copy, backbone="nobody/no-such-model", revision="abc")
    assert Suite(copy).fingerprint("backbone") == "nobody/no-such-model@abc"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("REDCLOAK_ONLINE", raising=False)
    return tmp_path / "hub"


def cached(hub: Path, name: str, revision: str, suite_folder: Path, commit: str = "0" * 40) -> Path:
    """Put the suite's backbone into the cache as a hub model."""
    folder = hub / f"models--{name.replace('/', '--')}"
    shutil.copytree(suite_folder, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / revision).write_text(commit)
    return folder / "snapshots" / commit


def test_a_hub_model_is_known_by_the_source_that_is_here(copy: Path, suite_folder: Path, hub: Path):
    rewrite(copy, backbone="nobody/first", revision="abc", fallbacks="[nobody/other@v2, nobody/last]")
    (copy / "manifest.json").unlink()
    assert Suite(copy).fingerprint("backbone") == "nobody/first@abc"
    last = cached(hub, "nobody/last", "main", suite_folder)
    assert Suite(copy).fingerprint("backbone") == "nobody/last@main"
    assert Suite(copy).backbone_folder() == last.resolve()
    part = cached(hub, "nobody/first", "abc", suite_folder)
    (part / "vae" / "diffusion_pytorch_model.safetensors").unlink()  # a download that was cut short
    other = cached(hub, "nobody/other", "v2", suite_folder)
    assert Suite(copy).fingerprint("backbone") == "nobody/other@v2"
    assert Suite(copy).backbone_folder() == other.resolve()


def test_keys_of_one_source_are_not_used_for_another(
    copy: Path, suite_folder: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
):
    rewrite(copy, backbone="nobody/first", fallbacks="[nobody/last]")
    (copy / "manifest.json").unlink()
    asked = []

    def download(name: str, **_: object) -> str:
        asked.append(name)
        if name == "nobody/first":
            raise OSError("gone\nfor good")
        return str(cached(hub, name, "main", suite_folder))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setenv("REDCLOAK_ONLINE", "1")
    planned = Suite(copy)
    assert planned.fingerprint("backbone") == "nobody/first@main"
    with pytest.raises(UserError, match="nobody/first@main could not be had, and nobody/last@main was downloaded"):
        planned.check("backbone")
    assert planned.fingerprint("backbone") == "nobody/last@main"
    planned.check("backbone")
    assert asked == ["nobody/first", "nobody/last"], "what is here is not downloaded again"


def test_a_download_that_failed_is_told_as_such(copy: Path, hub: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(name: str, **_: object) -> str:
        raise OSError(f"{name} is gone\nfor good")

    rewrite(copy, backbone="nobody/no-such-model", fallbacks="[nobody/nor-this]")
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setenv("REDCLOAK_ONLINE", "1")
    with pytest.raises(UserError) as caught:
        Suite(copy).check("backbone")
    assert "none of nobody/no-such-model, nobody/nor-this could be downloaded" in str(caught.value)
    assert "(OSError: nobody/nor-this is gone for good)" in str(caught.value)
    assert "REDCLOAK_ONLINE" not in str(caught.value)


def test_a_fingerprint_of_the_hub_imports_no_torch(copy: Path):
    rewrite(copy, backbone="nobody/no-such-model")
    code = f"import sys; from redcloak.suite import load; load({str(copy)!r}).fingerprint('backbone'); "
    code += "print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("part", ["text", "image"])
def test_a_clip_without_a_tower_is_refused_before_it_is_loaded(part: str, copy: Path):
    (copy / "manifest.json").unlink()
    shutil.rmtree(copy / "clip" / part)
    for look in (lambda suite: suite.check("clip"), lambda suite: suite.clip):
        with pytest.raises(UserError, match=rf"suite small: its CLIP has no {part} tower \({part}/\)") as caught:
            look(Suite(copy))
        assert "\n" not in str(caught.value)
    (copy / "clip" / "config.json").write_text("{}")  # a CLIP of transformers has both in one
    Suite(copy).check("clip")


def test_a_bench_whose_clip_has_no_text_is_refused_before_work(copy: Path, tmp_path: Path, capsys):
    from redcloak.cli import main

    (copy / "manifest.json").unlink()
    shutil.rmtree(copy / "clip" / "text")
    given = {"suite": str(copy), "subjects": ["drawn:0"], "protections": ["photoguard"], "purifiers": ["none"]}
    (tmp_path / "m.yaml").write_text(json.dumps(given))
    assert main(["bench", "run", str(tmp_path / "m.yaml"), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: suite small: its CLIP has no text tower")
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_no_two_slots_share_a_fingerprint(suite: Suite):
    assert len({suite.fingerprint(slot) for slot in SLOTS}) == len(SLOTS)


def test_a_pickle_is_refused(copy: Path):
    (copy / "manifest.json").unlink()
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UserError, match=r"unet/diffusion_pytorch_model\.bin is a pickle.*convert it to safetensors"):
        _ = Suite(copy).backbone


def test_a_part_that_is_not_there(copy: Path):
    (copy / "manifest.json").unlink()
    shutil.rmtree(copy / "scheduler")
    with pytest.raises(UserError, match="has no scheduler/, so it is not a diffusers folder"):
        _ = Suite(copy).backbone


def test_a_slot_that_the_suite_does_not_have(copy: Path):
    rewrite(copy, restorer="null")
    with pytest.raises(UserError, match="suite small: it has no restorer; choose a suite that has one"):
        _ = Suite(copy).restorer


@pytest.mark.parametrize("slot", ["restorer", "upscaler", "pixel", "quality"])
def test_a_slot_whose_folder_is_absent_or_has_no_weights(slot: str, copy: Path):
    (copy / "manifest.json").unlink()
    rewrite(copy, **{slot: "elsewhere"})  # not by its name is a pixel folder known
    folder = (copy / slot).rename(copy / "elsewhere")
    (folder / "diffusion_pytorch_model.safetensors").rename(copy / "kept")
    empty = r"model .*: elsewhere/ has no \*\.safetensors; copy the model again, whole"
    for words in (empty, rf"suite small: {slot} is missing \(.*elsewhere\); add it to the folder"):
        for look in (lambda suite: suite.check(slot), lambda suite: getattr(suite, slot)):
            with pytest.raises(UserError, match=words) as caught:
                look(Suite(copy))
            assert "\n" not in str(caught.value)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_slip_in_the_suite_s_file(copy: Path):
    rewrite(copy, restorr="restorer")
    with pytest.raises(UserError, match="suite copy: unknown setting 'restorr': did you mean 'restorer'"):
        Suite(copy)


def test_a_hub_model_is_not_fetched_behind_one_s_back(copy: Path, monkeypatch: pytest.MonkeyPatch):
    opened = []

    def refuse(*args: object, **kwargs: object) -> None:
        opened.append(args)
        raise AssertionError("a socket was opened")

    rewrite(copy, backbone="nobody/no-such-model", fallbacks="[nobody/nor-this]")
    monkeypatch.delenv("REDCLOAK_ONLINE", raising=False)
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(UserError, match=r"nobody/no-such-model is not on this machine.*REDCLOAK_ONLINE=1") as caught:
        _ = Suite(copy).backbone
    assert "\n" not in str(caught.value)
    assert not opened


def test_loading_draws_nothing_from_the_global_stream(suite_folder: Path):
    fresh, before = Suite(suite_folder), torch.get_rng_state()
    for slot in SLOTS:
        getattr(fresh, slot)
        assert torch.equal(torch.get_rng_state(), before), slot


def test_every_weight_that_was_saved_is_loaded(suite: Suite, suite_folder: Path):
    from safetensors.torch import load_file

    unet = load_file(suite_folder / SLOTS["backbone"])
    assert all(torch.equal(value, unet[name]) for name, value in suite.backbone.unet.state_dict().items())
    image = load_file(suite_folder / "clip" / "image" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, image[name]) for name, value in suite.clip.image.state_dict().items())


def test_given_settings_go_before_the_suite_s(suite: Suite):
    assert suite.settings("dreambooth", {"steps": 3}) == {"steps": 3, "batch": 2}
    assert suite.settings("aspl", {}) == {}


def test_suites_by_name_and_by_folder(suite_folder: Path, tmp_path: Path):
    assert {"tiny", "sd15", "sd21"} <= set(suites.names())
    assert suites.load("tiny").spec.resolution == 64
    assert suites.load(str(suite_folder)).name == "small"
    with pytest.raises(UserError, match="unknown suite 'tyni': did you mean 'tiny'"):
        suites.load("tyni")
    with pytest.raises(UserError, match=r"the folder has no suite\.yaml and is no diffusers"):
        suites.load(str(tmp_path))


@pytest.mark.parametrize("name", suites.names())
def test_the_defaults_of_every_suite_are_settings_of_their_methods(name: str):
    from redcloak import registry

    for method, settings in suites.load(name).spec.defaults.items():
        kind = next(kind for kind in registry.KINDS if method in registry.names(kind))
        assert registry.load(kind, method).configure(**settings)


def test_the_upscaler_s_noise_is_that_of_the_x4_upscaler():
    schedule = DDPMScheduler(1000, 0.0001, 0.02, "scaled_linear")
    spread = (1 - schedule.alphas_cumprod).sqrt() / 2  # its pictures are in [-1, 1], ours in [0, 1]
    for level in (1, 20, 100, 350):
        assert noise_spread(level) == pytest.approx(float(spread[level]), rel=1e-4)
    assert noise_spread(0) == 0


def test_the_upscaler_is_told_the_noise_that_was_added(suite: Suite, photos: torch.Tensor):
    small = photos[:2, :, ::4, ::4]

    def enlarge(level: int, seed: int) -> torch.Tensor:
        return suite.upscaler(small, "a photo", level, [torch.Generator().manual_seed(seed + i) for i in range(2)])

    assert enlarge(20, 0).shape == (2, 3, 64, 64)
    assert torch.equal(enlarge(0, 0), enlarge(0, 5))
    assert not torch.equal(enlarge(20, 0), enlarge(20, 5))
