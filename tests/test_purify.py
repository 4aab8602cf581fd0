from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from redcloak.api import Context, Subject
from redcloak.images import list_images, read_image, save_images, to_uint8
from redcloak.purify import (
    codesr,
    gaussian,
    jpeg,
    noisy_upscaling,
    none,
    pdm_pure,
    realesrgan,
    restore,
    sd_x4,
    upscale,
    waifu2x,
)
from redcloak.purify.gaussian import blur
from redcloak.purify.upscale import resize
from redcloak.rng import generators
from redcloak.stages import _batches
from redcloak.stages import purify as stage


def purify(module, images: Tensor, context: Context, seed: int = 0, **settings) -> Tensor:
    function = getattr(module, module.__name__.rsplit(".", 1)[1])
    return function(images, module.Config(**settings), context, generators(seed, "p", len(images)))


def test_no_purification_is_the_picture(photos: Tensor, context: Context):
    assert torch.equal(purify(none, photos, context), photos)


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 1.1, 2.3, 5.0])
@pytest.mark.parametrize("shape", ["photos", "wide"])
def test_the_blur_is_scipy_s(sigma: float, shape: str, request: pytest.FixtureRequest):
    images = request.getfixturevalue(shape)
    expected = gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), mode="mirror", truncate=4)
    assert np.abs(blur(images, sigma).numpy() - expected).max() < 1e-5


def test_the_variants_of_the_blur(photos: Tensor, context: Context):
    assert torch.equal(purify(gaussian, photos, context), blur(photos, 1.1, reach=2))
    assert torch.equal(purify(gaussian, photos, context, variant="released"), blur(photos, 5.0))
    assert torch.equal(purify(gaussian, photos, context, variant="released", sigma=2), blur(photos, 2.0))


def test_the_paper_s_blur_has_five_pixels(context: Context):
    dot = torch.zeros(1, 3, 15, 15)
    dot[..., 7, 7] = 1
    drawn = purify(gaussian, dot, context)[0, 0]
    weights = torch.exp(-(torch.arange(-2, 3.0) ** 2) / (2 * 1.1**2))
    assert torch.allclose(drawn[7, 5:10], weights / weights.sum() * drawn[7].sum(), atol=1e-6)
    assert int((drawn > 0).sum()) == 25


def test_a_blur_wider_than_the_picture(photos: Tensor):
    small = photos[..., :6, :9]
    assert torch.allclose(blur(small, 50.0).mean((2, 3)), small.mean((2, 3)), atol=0.1)
    assert blur(small, 50.0).std((2, 3)).max() < small.std((2, 3)).max()


@pytest.mark.parametrize("quality", [1, 50, 75, 95])
@pytest.mark.parametrize("shape", ["photos", "wide"])
def test_jpeg_is_pillow_s_to_the_byte(quality: int, shape: str, context: Context, request: pytest.FixtureRequest):
    images = request.getfixturevalue(shape)
    compressed = to_uint8(purify(jpeg, images, context, quality=quality))
    for picture, result in zip(to_uint8(images), compressed, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
        assert np.array_equal(result, np.asarray(Image.open(buffer)))


def test_the_restorer_is_told_the_fidelity(photos: Tensor, context: Context):
    results = [purify(restore, photos, context, fidelity=fidelity) for fidelity in (0.0, 1.0)]
    assert torch.equal(results[0], context.suite.restorer(photos, 0.0))
    assert not torch.equal(*results)


def test_resizing_is_pillow_s(photos: Tensor):
    soft = 0.2 + 0.6 * photos  # Pillow also cuts between its two passes: that tells where an overshoot leaves [0, 1]
    ours = to_uint8(resize(soft, 16, 24))
    for picture, result in zip(to_uint8(soft), ours, strict=True):
        theirs = np.asarray(Image.fromarray(picture).resize((24, 16), Image.Resampling.BICUBIC))
        assert np.abs(result.astype(int) - theirs).max() <= 1
    assert resize(photos, 64, 64) is photos


@pytest.mark.parametrize("shrink", [1.0, 3.0, 4.0])
def test_the_upscaler_is_given_the_small_picture(shrink: float, photos: Tensor, context: Context):
    seen: list[tuple[Tensor, str, int]] = []

    class Spy:
        def upscaler(self, images, prompt, level, streams, added=None):
            seen.append((images, prompt, level))
            return context.suite.upscaler(images, prompt, level, streams)

    dog = replace(context, suite=Spy(), subject=Subject("dog"))
    result = purify(upscale, photos, dog, shrink=shrink, noise_level=33)
    (small, prompt, level) = seen[0]
    assert torch.equal(small, resize(photos, round(64 / shrink), round(64 / shrink)))
    assert (prompt, level) == ("a photo of a dog", 33)
    large = context.suite.upscaler(small, "", 33, generators(0, "p", 3)).detach()
    assert torch.equal(result, resize(large, 64, 64))


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (upscale, {}),
        (codesr, {}),
        (noisy_upscaling, {"shrink": 8}),
        (sd_x4, {}),
        (realesrgan, {"shrink": 4}),
        (pdm_pure, {}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_of_a_tiny_photo_a_pixel_is_left(module, settings: dict, context: Context, monkeypatch: pytest.MonkeyPatch):
    """Two pixels, shrunk by four or eight, round to none."""
    sizes: list[tuple[int, ...]] = []

    def enlarge(images: Tensor, *args, **more) -> Tensor:
        sizes.append(tuple(images.shape[-2:]))
        return images.repeat(1, 1, 4, 4)

    models = SimpleNamespace(
        upscaler=enlarge, restorer=lambda images, *_: images, pixel=context.suite.pixel, device="cpu"
    )
    drawn = {"find": lambda *_: "", "load": lambda *_: None, "enlarge": lambda pipeline, *args, **_: enlarge(*args)}
    monkeypatch.setattr(sd_x4, "sdx4", SimpleNamespace(**drawn))
    monkeypatch.setattr(realesrgan, "_net", lambda _: enlarge)
    tiny = torch.rand(1, 3, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        result = purify(module, tiny, replace(context, suite=models), **settings)
    assert result.shape == tiny.shape
    assert bool(torch.isfinite(result).all())
    assert module is pdm_pure or min(sizes[0]) == 1


@pytest.mark.parametrize("noun", ["person", "man", "Woman", "girl", "face"])
def test_codesr_restores_people_then_enlarges(noun: str, photos: Tensor, context: Context):
    someone = replace(context, subject=Subject(noun))
    both = purify(upscale, purify(restore, photos, someone, fidelity=0.2), someone, shrink=2, noise_level=9)
    assert torch.equal(purify(codesr, photos, someone, fidelity=0.2, shrink=2, noise_level=9), both)


def test_codesr_spares_what_is_no_person_the_restorer(photos: Tensor, context: Context):
    class NoRestorer:
        upscaler = staticmethod(context.suite.upscaler)

        @property
        def restorer(self):
            raise AssertionError("the restorer was asked")

    dog = replace(context, suite=NoRestorer(), subject=Subject("dog"))
    assert torch.equal(purify(codesr, photos, dog), purify(upscale, photos, dog))
    with pytest.raises(AssertionError, match="the restorer was asked"):
        purify(codesr, photos, replace(dog, subject=Subject("person")))


def test_no_more_photos_go_together_than_memory_is_meant_for():
    def sized(height: int, width: int, count: int) -> list[np.ndarray]:
        return [np.broadcast_to(np.uint8(0), (height, width, 3))] * count

    assert [*_batches(sized(64, 64, 17))] == [[*range(16)], [16]]
    assert [*_batches([*sized(512, 512, 5), *sized(48, 64, 2)])] == [[0, 1, 2, 3], [4], [5, 6]]
    assert [*_batches(sized(3000, 4000, 2))] == [[0], [1]]


def test_a_photo_is_the_same_in_any_batch(photos: Tensor, suite_folder: Path, tmp_path: Path, monkeypatch):
    save_images(tmp_path / "in" / "images", photos)
    config = {
        "chain": [
            {"name": name, "settings": {"shrink": 2} if name == "upscale" else {}} for name in ("upscale", "jpeg")
        ],
        "seed": 0,
        "subject": {"class_noun": "person", "identifier": "sks"},
    }
    for most in (16, 2):
        monkeypatch.setattr("redcloak.memory.AT_ONCE", most)
        told: list[tuple[int, int]] = []
        stage(
            config,
            {"photos": tmp_path / "in"},
            tmp_path / str(most),
            {"suite": str(suite_folder)},
            lambda done, total, values, told=told: told.append((done, total)),
        )
        assert told == [(turn + 1, 2 * -(-3 // most)) for turn in range(2 * -(-3 // most))]
    pairs = zip(list_images(tmp_path / "16" / "images"), list_images(tmp_path / "2" / "images"), strict=True)
    for whole, part in pairs:
        assert (read_image(whole) != read_image(part)).mean() < 1e-3  # float sums


@pytest.mark.parametrize("model", ["photo", "art"])
def test_waifu2x_takes_a_large_photo_in_windows(model: str, photos: Tensor, context: Context, monkeypatch):
    images, seen = photos[:2, :, :50, :61], []
    net = waifu2x._net
    with torch.no_grad():
        whole = purify(waifu2x, images, context, model=model)
        monkeypatch.setattr(waifu2x, "TILE", 32)
        monkeypatch.setattr(waifu2x, "_net", lambda *args: lambda x: seen.append(x.shape) or net(*args)(x))
        tiled = purify(waifu2x, images, context, model=model)
    assert torch.allclose(tiled, whole, atol=1e-5, rtol=0)
    assert max(shape[-1] for shape in seen) == (32 + 2 * 7 if model == "photo" else 64 + 2 * 28)
