from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn
from torch import Tensor

from redcloak.api import Context
from redcloak.config import Choice
from redcloak.crafting.diffjpeg import CHROMA, LUMA, coded, diffjpeg, quantised, rounded, table
from redcloak.crafting.lens import ChainLens
from redcloak.images import to_tensor, to_uint8
from redcloak.portraits import subject
from redcloak.purify import jpeg
from redcloak.registry import load
from redcloak.rng import generators


@pytest.fixture(scope="module")
def portraits() -> Tensor:
    return to_tensor([picture for number in range(4) for picture in subject(number, shots=2)])


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95])
def test_the_tables_are_those_that_pillow_writes(quality: int, photos: Tensor):
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(photos)[0]).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        written = image.quantization  # in rows
    assert table(LUMA, quality).flatten().tolist() == list(written[0])
    assert table(CHROMA, quality).flatten().tolist() == list(written[1])


def test_a_block_s_coefficients_are_rounded_to_the_steps():
    planes = (torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(0)) - 0.5) * 120
    steps = table(LUMA, 20)
    result = coded(planes, steps).numpy()[0, 0]
    for top in (0, 8):
        for left in (0, 8, 16):
            block = planes.numpy()[0, 0, top : top + 8, left : left + 8].astype(float)
            expected = (dctn(block, norm="ortho") / steps.numpy()).round() * steps.numpy()
            back = dctn(result[top : top + 8, left : left + 8].astype(float), norm="ortho")
            assert np.abs(back - expected).max() < 2, "up to the 8-bit rounding of what comes out"


@pytest.mark.parametrize(("quality", "error"), [(50, 0.75), (75, 0.85), (95, 0.9)])
def test_the_picture_is_near_pillow_s(quality: int, error: float, portraits: Tensor, context: Context):
    """Mean absolute error in 8-bit steps; the compression itself changes these pictures by 3 to 7."""
    theirs = jpeg.jpeg(portraits, jpeg.Config(quality=quality), context, [])
    assert float((diffjpeg(portraits, quality) - theirs).abs().mean()) * 255 < error


@pytest.mark.parametrize(("height", "width", "error"), [(48, 72, 1), (33, 47, 1), (16, 8, 2), (5, 3, 6)])
def test_any_size_comes_back(height: int, width: int, error: float, photos: Tensor, context: Context):
    images = (
        photos[..., :height, :width].contiguous() if width <= 64 else photos.repeat(1, 1, 1, 2)[..., :height, :width]
    )
    seen = diffjpeg(images, 75)
    assert seen.shape == images.shape
    assert 0 <= seen.min() <= seen.max() <= 1
    theirs = jpeg.jpeg(images.contiguous(), jpeg.Config(), context, [])
    assert float((seen - theirs).abs().mean()) * 255 < error


@pytest.mark.parametrize("quality", [1, 50, 75, 95])
def test_the_gradient_is_finite_and_not_zero(quality: int, photos: Tensor):
    leaf = photos.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(diffjpeg(leaf, quality).square().sum(), leaf)
    assert bool(gradient.isfinite().all())
    assert bool((gradient.flatten(1).abs().amax(1) > 0).all())
    assert float((gradient != 0).float().mean()) > 0.5 or quality == 1


def test_the_slopes_of_rounding():
    values = torch.tensor([-1.4, -0.5, 0.0, 0.1, 0.49, 2.0, 2.75], requires_grad=True)
    for function, slope in ((quantised, 3 * (values - values.round()) ** 2), (rounded, torch.ones(7))):
        result = function(values)
        assert torch.equal(result, values.round())
        assert torch.allclose(torch.autograd.grad(result.sum(), values)[0], slope.detach(), atol=1e-6)


def test_what_compression_throws_away_has_no_gradient():
    """A weak ripple of the finest frequency is gone at quality 50; a strong one is half way to the next step."""
    ripple = torch.tensor([1.0, -1.0]).repeat(8)
    ripple = ripple[:, None] * ripple
    slopes = []
    for size in (1.0, 6.0):
        amount = torch.tensor(size, requires_grad=True)
        result = coded((amount * ripple)[None, None], table(LUMA, 50))
        slopes.append(float(torch.autograd.grad((result * ripple).mean(), amount)[0]))
    assert abs(slopes[0]) < 0.02
    assert slopes[1] > 10 * abs(slopes[0])


def test_the_lens_shows_pillow_s_picture_and_the_stand_in_s_gradient(photos: Tensor, context: Context):
    entry, leaf = load("purify", "jpeg"), photos.clone().requires_grad_(True)
    assert not entry.method.differentiable
    chain = (Choice(name="jpeg", settings={"quality": 60}),)
    seen = ChainLens(chain, context)(leaf, generators(0, "l", 3))
    assert torch.allclose(seen, jpeg.jpeg(photos, jpeg.Config(quality=60), context, []), atol=1e-6)
    (gradient,) = torch.autograd.grad(seen.sum(), leaf, retain_graph=True)
    assert torch.equal(gradient, torch.autograd.grad(diffjpeg(leaf, 60).sum(), leaf)[0])
    straight = ChainLens(chain, context, "straight_through")(leaf, generators(0, "l", 3))
    assert torch.equal(torch.autograd.grad(straight.sum(), leaf)[0], torch.ones_like(leaf))


def test_a_perturbation_that_climbs_by_it_survives_jpeg_better(portraits: Tensor, context: Context):
    """Latents move further behind Pillow's codec than with a gradient that takes the codec for the identity."""
    moved = [distance(portraits[:4], context, gradient) for gradient in ("exact", "straight_through")]
    assert moved[0] > 1.05 * moved[1]


def distance(images: Tensor, context: Context, gradient: str, radius: float = 8 / 255) -> float:
    lens = ChainLens((Choice(name="jpeg", settings={"quality": 30}),), context, gradient)
    streams, encode = generators(0, "l", len(images)), context.suite.backbone.encode
    with torch.no_grad():
        clean = encode(lens(images, streams))
    delta = (torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1) * radius
    for _ in range(15):
        delta.requires_grad_(True)
        loss = (encode(lens((images + delta).clamp(0, 1), streams)) - clean).square().sum()
        (slope,) = torch.autograd.grad(loss, delta)
        delta = (delta.detach() + slope.sign() * 2 / 255).clamp(-radius, radius)
    with torch.no_grad():
        return float((encode(lens((images + delta).clamp(0, 1), streams)) - clean).flatten(1).norm(dim=1).mean())
