from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import median_filter
from torch import Tensor
from torch.nn import functional as F

from redcloak.api import Context
from redcloak.images import to_uint8
from redcloak.purify import adverse_cleaner, bilateral, bit_depth, gaussian_noise, jpeg, median, resize, upscale, webp
from redcloak.purify.adverse_cleaner import guided_filter
from redcloak.purify.resize import resample
from redcloak.rng import generators


def purify(module, images: Tensor, context: Context, seed: int = 0, **settings) -> Tensor:
    function = getattr(module, module.__name__.rsplit(".", 1)[1])
    return function(images, module.Config(**settings), context, generators(seed, "p", len(images)))


def channels_last(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).contiguous().numpy()


@pytest.fixture(params=["photos", "wide"])
def images(request: pytest.FixtureRequest) -> Tensor:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("window", [2, 3, 4, 5, 9])
def test_the_median_is_scipy_s(window: int, images: Tensor, context: Context):
    expected = median_filter(images.numpy(), (1, 1, window, window), mode="reflect")
    assert np.array_equal(purify(median, images, context, window=window).numpy(), expected)


def test_a_median_wider_than_the_picture(photos: Tensor, context: Context):
    small = photos[..., :4, :5].contiguous()
    expected = median_filter(small.numpy(), (1, 1, 11, 11), mode="reflect")
    assert np.array_equal(purify(median, small, context, window=11).numpy(), expected)


@pytest.mark.parametrize(
    ("diameter", "color", "space"), [(3, 8, 8), (5, 8, 8), (9, 75, 75), (5, 200, 1.5), (15, 30, 2)]
)
def test_the_bilateral_filter_is_opencv_s(diameter: int, color: float, space: float, images: Tensor, context: Context):
    """OpenCV interpolates its weights in a table, so that it is only right to about 1e-3 of an 8-bit step."""
    result = purify(bilateral, images, context, diameter=diameter, sigma_color=color, sigma_space=space)
    for ours, picture in zip(channels_last(result * 255), channels_last(images * 255), strict=True):
        assert np.abs(ours - cv2.bilateralFilter(picture, diameter, color, space)).max() < 5e-3


@pytest.mark.parametrize("quality", [1, 50, 80, 100])
def test_webp_is_pillow_s_to_the_byte(quality: int, images: Tensor, context: Context):
    compressed = to_uint8(purify(webp, images, context, quality=quality))
    for picture, result in zip(to_uint8(images), compressed, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "WEBP", quality=quality, lossless=False)
        with Image.open(buffer) as image:
            assert np.array_equal(result, np.asarray(image.convert("RGB")))
        assert not np.array_equal(result, picture), "it is lossy"


KERNELS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (17, 29), (64, 30), (100, 131), (1, 1)])
def test_resampling_is_pillow_s(kernel: str, height: int, width: int, images: Tensor):
    soft = 0.25 + 0.5 * images  # so that nothing overshoots and is cut
    ours = resample(soft, height, width, kernel)
    for plane, result in zip(soft.flatten(0, 1).numpy(), ours.flatten(0, 1).numpy(), strict=True):
        theirs = np.asarray(Image.fromarray(plane).resize((width, height), KERNELS[kernel]))
        assert np.abs(result - theirs).max() < 2e-6


@pytest.mark.parametrize(("height", "width"), [(32, 32), (17, 29), (48, 50), (3, 5)])
def test_shrinking_by_area_is_opencv_s(height: int, width: int, photos: Tensor):
    for ours, picture in zip(
        channels_last(resample(photos, height, width, "area")), channels_last(photos), strict=True
    ):
        assert np.abs(ours - cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)).max() < 2e-6


def test_enlarging_by_area_repeats_pixels(photos: Tensor):
    assert torch.allclose(resample(photos, 128, 192, "area"), photos.repeat_interleave(2, 2).repeat_interleave(3, 3))


def test_resizing_shrinks_and_enlarges(images: Tensor, context: Context):
    height, width = images.shape[-2:]
    small = resample(images, round(height / 3), round(width / 3), "area")
    expected = resample(small, height, width, "lanczos")
    assert torch.equal(purify(resize, images, context, shrink=3, down="area", up="lanczos"), expected)
    twice = upscale.resize(upscale.resize(images, height // 2, width // 2), height, width)
    assert torch.allclose(purify(resize, images, context), twice, atol=1e-6), "the default is the bicubic of upscale"
    assert torch.equal(purify(resize, images, context, shrink=1), images)


@pytest.mark.parametrize("bits", range(1, 9))
def test_fewer_bits_are_fewer_levels(bits: int, images: Tensor, context: Context):
    result = purify(bit_depth, images, context, bits=bits)
    levels = np.linspace(0, 1, 2**bits)
    nearest = np.abs(images.numpy()[..., None] - levels).min(-1)
    assert np.abs(np.abs(result.numpy()[..., None] - levels).min(-1)).max() < 1e-6
    assert np.allclose((result - images).abs().numpy(), nearest, atol=1e-6)
    assert bits < 8 or np.array_equal(to_uint8(result), to_uint8(images))


def test_the_noise_is_normal_and_of_the_said_size(context: Context):
    grey = torch.full((2, 3, 96, 96), 0.5)
    noise = (purify(gaussian_noise, grey, context, sigma=0.05) - grey).flatten(1).double()
    assert torch.allclose(noise.std(1), torch.tensor(0.05).double(), rtol=0.02)
    assert noise.mean(1).abs().max() < 0.05 * 4 / noise.shape[1] ** 0.5
    assert float(((noise / 0.05).pow(4)).mean()) == pytest.approx(3, abs=0.2), "the fourth moment of a normal"
    assert abs(np.corrcoef(noise.numpy())[0, 1]) < 0.03, "each picture has its own"


def fitted_windows(guide: np.ndarray, picture: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """The guided filter by its definition: a ridge regression in each window, solved by least squares."""
    height, width, _ = guide.shape
    pad = ((2 * radius,) * 2, (2 * radius,) * 2, (0, 0))  # the windows of edge pixels are averaged too, so twice
    wide_guide, wide_picture = (np.pad(a.astype(float), pad, mode="symmetric") for a in (guide, picture))
    fits = np.zeros((height + 2 * radius, width + 2 * radius, 4, 3))
    side = 2 * radius + 1
    for i in range(fits.shape[0]):
        for j in range(fits.shape[1]):
            design = np.c_[wide_guide[i : i + side, j : j + side].reshape(-1, 3), np.ones(side**2)]
            penalty = np.sqrt(side**2 * eps) * np.eye(4)[:3]
            target = np.r_[wide_picture[i : i + side, j : j + side].reshape(-1, 3), np.zeros((3, 3))]
            fits[i, j] = np.linalg.lstsq(np.r_[design, penalty], target)[0]
    result = np.zeros_like(guide, dtype=float)
    for i in range(height):
        for j in range(width):
            fit = fits[i : i + side, j : j + side].mean((0, 1))
            result[i, j] = guide[i, j] @ fit[:3] + fit[3]
    return result


def test_the_guided_filter_is_a_regression_in_each_window(wide: Tensor):
    guide, picture = wide[:1, :, :14, :20] * 255, wide[1:2, :, :14, :20] * 255
    ours = channels_last(guided_filter(guide, 2, 16.0)(picture))[0]
    theirs = fitted_windows(channels_last(guide)[0], channels_last(picture)[0], 2, 16.0)
    assert np.abs(ours - theirs)[2:-2, 2:-2].max() < 0.01


def guided_by_boxes(guide: np.ndarray, picture: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """OpenCV's guided filter in its own box filters, whose border repeats the edge: equations 14 to 18 of He et al."""
    side = (2 * radius + 1,) * 2
    box = lambda a: cv2.boxFilter(np.ascontiguousarray(a), -1, side, borderType=cv2.BORDER_REFLECT)  # noqa: E731
    products = np.stack([box(guide * guide[..., k : k + 1]) for k in range(3)], -1)
    mean, level = box(guide), box(picture)
    inverse = np.linalg.inv(products - mean[..., None] * mean[..., None, :] + eps * np.eye(3))
    result = np.empty_like(picture)
    for k in range(3):
        cross = box(guide * picture[..., k : k + 1]) - mean * level[..., k : k + 1]
        slopes = (inverse @ cross[..., None])[..., 0]
        offset = level[..., k] - (slopes * mean).sum(-1)
        result[..., k] = (box(slopes) * guide).sum(-1) + box(offset)
    return result


@pytest.mark.parametrize("radius", [2, 4])
def test_the_guided_filter_is_opencv_s_up_to_the_border(radius: int, images: Tensor):
    """Its own implementation is in opencv-contrib, which is not asked for; where it is there, it is compared too."""
    guide = images[:1] * 255
    picture = images[:1].flip(-1) * 255
    ours = channels_last(guided_filter(guide, radius, 16.0)(picture))[0]
    arrays = [channels_last(a)[0] for a in (guide, picture)]
    theirs = [guided_by_boxes(*(a.astype(np.float64) for a in arrays), radius, 16.0)]
    if hasattr(cv2, "ximgproc"):
        theirs.append(cv2.ximgproc.guidedFilter(*(np.ascontiguousarray(a) for a in arrays), radius, 16.0))
    for other in theirs:
        assert np.abs(ours - other).max() < 0.02


def test_the_cleaner_is_its_two_filters_in_turn(images: Tensor, context: Context):
    result = purify(adverse_cleaner, images, context, bilateral_passes=7, guided_passes=2) * 255
    for row, picture in enumerate(channels_last(images * 255)):
        smooth = picture
        for _ in range(7):
            smooth = cv2.bilateralFilter(smooth, 5, 8, 8)
        guided = guided_filter(images[row : row + 1] * 255, 4, 16.0)
        expected = guided(guided(torch.from_numpy(smooth).permute(2, 0, 1)[None]))
        assert torch.allclose(result[row : row + 1], expected.clamp(0, 255), atol=1e-3)
    nothing = purify(adverse_cleaner, images, context, bilateral_passes=0, guided_passes=0)
    assert torch.allclose(nothing, images, atol=1e-6)


def test_the_cleaner_removes_weak_noise_and_keeps_edges(context: Context):
    step = torch.zeros(1, 3, 32, 32)
    step[..., 16:] = 0.8
    step += 0.1
    noisy = step + torch.randn(step.shape, generator=torch.Generator().manual_seed(0)) * 4 / 255
    cleaned = purify(adverse_cleaner, noisy, context)
    assert (cleaned - step).square().mean() < 0.25 * (noisy - step).square().mean()
    assert (cleaned[..., 16] - cleaned[..., 15]).min() > 0.75


@pytest.mark.parametrize(
    "module", [median, bilateral, resize, webp, jpeg, adverse_cleaner], ids=lambda m: m.METHOD.title
)
def test_a_filter_weakens_a_perturbation_of_pixels(module, photos: Tensor, context: Context):
    """What every one of them is for: two near pictures come nearer."""
    smooth = F.avg_pool2d(F.pad(photos, (4,) * 4, mode="reflect"), 9, 1)
    signs = torch.randint(0, 2, photos.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moved = (smooth + signs * 4 / 255).clamp(0, 1)
    left = purify(module, moved, context) - purify(module, smooth, context)
    assert left.square().mean() < 0.9 * (moved - smooth).square().mean()
