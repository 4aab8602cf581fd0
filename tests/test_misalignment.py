from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from redcloak import suite as suites
from redcloak.api import Context
from redcloak.config import ProtectConfig
from redcloak.crafting.balls import quantise
from redcloak.diagnose.clips import clips, from_folder
from redcloak.diagnose.misalignment import SCORES, Cloud, Concepts, difference, embedded, measure
from redcloak.errors import UserError
from redcloak.images import to_tensor
from redcloak.portraits import subject
from redcloak.suite import Suite

PROMPT = "a photo of person"


@pytest.fixture
def moved(photos: Tensor) -> Tensor:
    stream = torch.Generator().manual_seed(0)
    return (photos + 0.1 * torch.randn(photos.shape, generator=stream)).clamp(0, 1)


def copy(folder: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, to))


def test_the_measures_are_their_definitions(suite: Suite, photos: Tensor, moved: Tensor, class_images: Tensor):
    clip = suite.clip
    found = measure(moved, PROMPT, clip, clean=photos, members=class_images, concepts=Concepts(("person",), ("noise",)))
    image, clean = clip.embed_images(moved).double(), clip.embed_images(photos).double()
    texts = clip.embed_texts([PROMPT, "person", "noise"]).double()
    members = clip.embed_images(class_images).double()
    odds = (100 * (image @ (texts[1] - texts[2]))).exp()
    centre = members.mean(0)
    deviation = ((members - centre).norm(dim=-1) ** 2).sum().div(len(members) - 1).sqrt()
    expected = {
        "cosine": image @ texts[0],
        "class_mass": odds / (1 + odds),
        "shift": (image - clean).norm(dim=-1) ** 2 / 2,  # of unit vectors
        "class_distance": (image - centre).norm(dim=-1) / deviation,
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.allclose(found[name].double(), values, atol=2e-5), name


def test_the_round_trip_is_measured_like_a_photo(suite: Suite, photos: Tensor, moved: Tensor, class_images: Tensor):
    def through(images: Tensor) -> Tensor:
        return suite.backbone.decode(suite.backbone.encode(images))

    given = {"clean": photos, "members": class_images}
    found = measure(moved, PROMPT, suite.clip, suite.backbone, **given)
    again = measure(through(moved), PROMPT, suite.clip, **{name: through(part) for name, part in given.items()})
    plain = measure(moved, PROMPT, suite.clip, **given)
    assert set(found) == set(SCORES)
    for name, values in again.items():
        assert torch.allclose(found[f"{name}_decoded"], values, atol=1e-4), name
        assert torch.allclose(found[name], plain[name]), name
    apart = suite.backbone.encode(moved) - suite.backbone.encode(photos)
    assert torch.allclose(found["latent_shift"], apart.pow(2).mean((1, 2, 3)).sqrt(), atol=1e-5)


def test_a_clean_photo_has_not_moved(suite: Suite, photos: Tensor):
    found = measure(photos, PROMPT, suite.clip, suite.backbone, clean=photos)
    for name in ("shift", "shift_decoded", "latent_shift"):
        assert found[name].abs().max() < 1e-5


def test_an_image_does_not_depend_on_its_companions(suite: Suite, photos: Tensor, moved: Tensor):
    together = measure(moved, PROMPT, suite.clip, suite.backbone, clean=photos)
    alone = measure(moved[2:], PROMPT, suite.clip, suite.backbone, clean=photos[2:])
    for name, values in alone.items():
        assert torch.allclose(values, together[name][2:], atol=1e-5), name


def test_one_member_is_no_class(suite: Suite, photos: Tensor, class_images: Tensor):
    assert measure(photos, PROMPT, suite.clip, members=class_images[:1])["class_distance"].isnan().all()


def test_a_member_is_about_one_deviation_away():
    points = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0)) * 3 + 1
    cloud = Cloud.of(points)
    assert float(cloud.distance(points).pow(2).mean()) == pytest.approx(1, abs=1e-3)
    assert float(cloud.distance(cloud.centroid[None])) == 0


def test_the_small_suite_s_clip_tells_noise_from_people():
    """The whole chain on trained weights: noise on a photo takes it towards the words for noise."""
    suite = suites.load("tiny")
    clean = to_tensor(subject(3, shots=4))
    stream = torch.Generator().manual_seed(0)
    ball = ProtectConfig(budget=32).ball
    signs = torch.rand(clean.shape, generator=stream).sub(0.5).sign()
    noisy = quantise(clean + ball.radius * signs, clean, ball)
    before, after = (measure(part, PROMPT, suite.clip, clean=clean) for part in (clean, noisy))
    lost = difference(after["class_mass"].numpy(), before["class_mass"].numpy(), ["a"] * 4)
    assert lost.high < 0
    assert before["class_mass"].mean() > 0.5 > after["class_mass"].mean()
    assert (after["shift"] > before["shift"] + 0.05).all()


@pytest.mark.parametrize(("subject_texts", "noise"), [((), ()), (("person",), ("noise", "a noisy pattern"))])
def test_concepts_are_weighed_equally(subject_texts: tuple[str, ...], noise: tuple[str, ...]):
    with pytest.raises(UserError, match="as many of each"):
        Concepts(subject_texts, noise)


def test_clean_photos_of_another_number(suite: Suite, photos: Tensor):
    with pytest.raises(UserError, match="3 images need as many clean ones of their size, got 2"):
        measure(photos, PROMPT, suite.clip, clean=photos[:2])


def test_pairs_cancel_what_photos_differ_by():
    before = np.array([1.0, 5.0, 9.0, 2.0])
    one = difference(before + 0.5, before, ["a"] * 4)
    assert (one.estimate, one.low, one.high, one.over) == (0.5, 0.5, 0.5, "pictures")
    two = difference(before + np.array([0, 0, 1, 1]), before, ["a", "a", "b", "b"])
    assert (two.estimate, two.over, two.clusters) == (0.5, "subjects", 2)
    assert two.low <= 0 < 1 <= two.high
    assert np.isnan(difference(before[:1], before[:1], ["a"]).low)


def test_a_local_clip_is_transformers_own(clip_folder: Path, photos: Tensor):
    from transformers import CLIPModel

    clip = from_folder(clip_folder)
    small = torch.nn.functional.interpolate(photos, size=(32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    texts = ["a photo of a person", "noise"]
    tokens = clip.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        whole = CLIPModel.from_pretrained(clip_folder)(pixel_values=(small - 0.4) / 0.3, **tokens)
    assert torch.allclose(clip.embed_images(photos), whole.image_embeds, atol=1e-5)
    assert torch.allclose(clip.embed_texts(texts), whole.text_embeds, atol=1e-5)
    assert embedded(photos, clip).shape == (3, 12)


def test_several_clips_by_name(suite: Suite, clip_folder: Path, photos: Tensor):
    found = clips(suite, [clip_folder])
    assert list(found) == ["small", "vit-random"]
    cosines = [measure(photos, PROMPT, clip)["cosine"] for clip in found.values()]
    assert not torch.allclose(*cosines)
    with pytest.raises(UserError, match="'vit-random' already"):
        clips(suite, [clip_folder, clip_folder])


def test_a_suite_without_clip(suite: Suite, clip_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(suite, "spec", suite.spec.model_copy(update={"clip": None}))
    assert list(clips(suite, [clip_folder])) == ["vit-random"]
    with pytest.raises(UserError, match="it has no CLIP; give a local one by --clip"):
        clips(suite)


def only_vision(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPVisionModelWithProjection

    CLIPVisionModelWithProjection(CLIPConfig.from_pretrained(folder).vision_config).save_pretrained(folder)


def without_text_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value.clone() for name, value in weights.items() if not name.startswith("text_model")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def without_projection(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value.clone() for name, value in weights.items() if not name.startswith("visual_projection")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


DAMAGE = {
    "has no text tower, so nothing": only_vision,
    "no text tower": without_text_weights,
    "visual_projection.weight is missing": without_projection,
    "pytorch_model.bin is a pickle": pickled,
    "has no config.json": lambda folder: (folder / "config.json").unlink(),
    "is a 'bert' model": lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
    "cannot be read": lambda folder: (folder / "tokenizer.json").write_text("{"),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_clip_that_is_not_whole(message: str, clip_folder: Path, tmp_path: Path):
    folder = copy(clip_folder, tmp_path / "clip")
    DAMAGE[message](folder)
    with pytest.raises(UserError, match=message) as error:
        from_folder(folder)
    assert "--clip" in str(error.value)


def test_a_clip_that_is_nowhere(tmp_path: Path, context: Context):
    with pytest.raises(UserError, match="there is no such folder"):
        clips(context.suite, [tmp_path / "nowhere"])
