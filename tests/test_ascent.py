from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor, nn

from redcloak.api import Budget, Context
from redcloak.backbone import Backbone
from redcloak.crafting.ascent import ascend
from redcloak.crafting.balls import project, quantise, random_start
from redcloak.crafting.objectives import denoising, encoder_distance, value_and_gradient
from redcloak.crafting.rules import Plan, constant, decaying, direction
from redcloak.rng import generators

ELEVEN = Budget.of_255(11)
SHAPE = (1, 3, 4, 4)
PHOTOS = arrays.arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 1, 2, 127, 128, 253, 254, 255]))
FLOATS = arrays.arrays(np.float32, SHAPE, elements=st.floats(-1, 2, width=32))
BUDGETS = st.integers(1, 64) | st.floats(1, 64, width=32)


def towards(goal: Tensor):
    """A loss with a known gradient: ``goal - x``."""
    return lambda images, _, rows=slice(None): -0.5 * (images - goal[rows]).pow(2).flatten(1).sum(1)


def spread(images: Tensor) -> Tensor:
    return (torch.arange(images.numel()).reshape(images.shape) % 7) / 6


@settings(max_examples=200)
@given(PHOTOS, FLOATS, BUDGETS)
def test_the_nearest_picture_of_the_lattice_inside_the_ball(clean, images, budget):
    result = quantise(torch.from_numpy(images), torch.from_numpy(clean).float() / 255, Budget.of_255(budget))
    levels = result.numpy() * 255
    assert np.abs(levels - levels.round()).max() < 1e-4
    assert np.abs(levels.round() - clean).max() <= budget
    distance = np.abs(np.arange(256) - images[..., None].astype(float) * 255)
    distance[np.abs(np.arange(256) - clean[..., None].astype(int)) > budget] = np.inf
    reached = np.abs(levels.round() - images.astype(float) * 255)
    assert (reached <= distance.min(-1) + 1e-3).all()


@settings(max_examples=100)
@given(PHOTOS, FLOATS, BUDGETS)
def test_on_the_lattice_once_is_on_the_lattice_for_good(clean, images, budget):
    origin, ball = torch.from_numpy(clean).float() / 255, Budget.of_255(budget)
    once = quantise(torch.from_numpy(images), origin, ball)
    assert torch.equal(quantise(once, origin, ball), once)
    assert torch.equal(quantise(origin, origin, ball), origin)


@settings(max_examples=100)
@given(PHOTOS, FLOATS, BUDGETS)
def test_projection_stays_in_the_ball_and_moves_no_further_than_it_must(clean, images, budget):
    origin, free, ball = torch.from_numpy(clean).float() / 255, torch.from_numpy(images), Budget.of_255(budget)
    result = project(free, origin, ball)
    low, high = (origin - ball.radius).clamp_min(0), (origin + ball.radius).clamp_max(1)
    assert torch.equal(result, torch.from_numpy(np.clip(images, low.numpy(), high.numpy())))


def test_a_random_start_is_uniform_in_the_ball_and_each_picture_s_own():
    clean = torch.full((4, 3, 40, 40), 0.5)
    start = random_start(clean, ELEVEN, generators(0, "s", 4))
    offset = (start - clean) / ELEVEN.radius
    assert offset.abs().max() <= 1 + 1e-5
    assert torch.histc(offset, 4, -1, 1).div(offset.numel()).sub(0.25).abs().max() < 0.02
    assert torch.equal(random_start(clean[2:3], ELEVEN, generators(0, "s", 4)[2:3]), start[2:3])


def test_the_direction_of_a_step():
    gradient = torch.tensor([[3.0, -1.0, 0.0], [-0.002, 0.001, 0.0], [0.0, 0.0, 0.0]]).view(3, 1, 1, 3)
    assert direction(gradient, "sign").flatten(1).tolist() == [[1, -1, 0], [-1, 1, 0], [0, 0, 0]]
    expected = torch.tensor([[1, -1 / 3, 0], [-1, 0.5, 0], [0, 0, 0]])
    assert torch.allclose(direction(gradient, "normalised").flatten(1), expected)


def test_the_schedules():
    assert [constant(step, 10) for step in range(3)] == [1, 1, 1]
    rates = [decaying(step, 100) for step in range(100)]
    assert rates[0] == 1
    assert rates[99] == pytest.approx(0.0199)
    assert np.allclose(np.diff(rates), -0.0099)


@pytest.mark.parametrize("rule", ["sign", "normalised"])
def test_the_path_is_the_closed_form(rule):
    """Three steps on a quadratic, whose gradient is known without autograd."""
    clean = torch.full((2, 3, 4, 4), 0.5)
    goal, budget, size = spread(clean), Budget(0.2), 0.07
    expected = clean.numpy().astype(np.float64)
    for step in range(3):
        slope = goal.numpy() - expected
        move = np.sign(slope) if rule == "sign" else slope / np.abs(slope).max(axis=(1, 2, 3), keepdims=True)
        expected = np.clip(expected + size * decaying(step, 3) * move, 0.3, 0.7)
    result = ascend(
        clean,
        clean,
        towards(goal),
        generators(0, "x", 2),
        Plan(budget, size, 3, rule, decaying),
    )
    assert np.abs(result.numpy() - expected).max() < 1e-5


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # foolbox's own imports of scipy
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_path_is_foolbox_s(norm):
    """Projected gradient ascent of a package that knows nothing of ours, on a network with the cross-entropy."""
    from foolbox import PyTorchModel
    from foolbox.attacks import L2ProjectedGradientDescentAttack, LinfProjectedGradientDescentAttack

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
        clean, labels = torch.rand(3, 3, 8, 8), torch.tensor([0, 3, 4])
    kind, rule = {
        "linf": (LinfProjectedGradientDescentAttack, "sign"),
        "l2": (L2ProjectedGradientDescentAttack, "l2"),
    }[norm]
    units = (3 * 8 * 8) ** 0.5 if norm == "l2" else 1.0  # ours are a root mean square, its a root of the sum
    theirs = kind(abs_stepsize=0.02 * units, steps=7, random_start=False)
    _, expected, _ = theirs(PyTorchModel(network, bounds=(0, 1)), clean, labels, epsilons=0.06 * units)

    def loss(images: Tensor, _, rows=slice(None)) -> Tensor:
        return nn.functional.cross_entropy(network(images), labels[rows], reduction="none")

    result = ascend(clean, clean, loss, generators(0, "x", 3), Plan(Budget(0.06, norm), 0.02, 7, rule), together=True)
    assert (result - expected).abs().max() < 1e-6
    assert (result - clean).abs().max() > 0.05


def test_the_loss_is_told_and_rises():
    clean, told = torch.full(SHAPE, 0.5), []
    ascend(
        clean, clean, towards(spread(clean)), generators(0, "x", 1), Plan(Budget(0.3), 0.02, 5),
        Context(None, progress=lambda done, total, values: told.append((done, total, values["loss"]))),
    )  # fmt: skip
    assert [row[:2] for row in told] == [(step, 5) for step in range(1, 6)]
    assert told[0][2] == pytest.approx(float(towards(spread(clean))(clean, None)))
    losses = [row[2] for row in told]
    assert losses == sorted(losses)


def explicit_denoising(backbone: Backbone, image: Tensor, prompt: str, stream: torch.Generator) -> Tensor:
    """The loss of one picture, written from the formulas, one draw."""
    posterior = backbone.vae.encode(2 * image - 1).latent_dist
    z = (posterior.mean + posterior.std * torch.randn(posterior.mean.shape[1:], generator=stream)) * 0.7
    time = torch.randint(0, 1000, (1,), generator=stream)
    noise = torch.randn(z.shape[1:], generator=stream)
    power = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square().neg().add(1).cumprod(0)[time]
    words = backbone.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
    guess = backbone.unet(power.sqrt() * z + (1 - power).sqrt() * noise, time, backbone.text_encoder(words)[0]).sample
    return (guess - noise).square().mean()


def explicit_step(image: Tensor, clean: Tensor, loss) -> tuple[Tensor, Tensor]:
    leaf = image.clone().requires_grad_(True)
    gradient = torch.autograd.grad(loss(leaf), leaf)[0]
    moved = image + 2 / 255 * gradient.sign()
    return moved.clamp(clean - 11 / 255, clean + 11 / 255).clamp(0, 1), gradient


def test_one_step_on_the_denoising_loss_is_the_step_of_the_formula(backbone: Backbone, photos: Tensor):
    start = random_start(photos, ELEVEN, generators(5, "s", 3))
    objective = denoising(backbone, "a photo of person")
    result = ascend(start, photos, objective, generators(0, "x", 3), Plan(ELEVEN, 2 / 255, 1))
    for index, stream in enumerate(generators(0, "x", 3)):
        one = slice(index, index + 1)
        expected, gradient = explicit_step(
            start[one], photos[one], lambda leaf, s=stream: explicit_denoising(backbone, leaf, "a photo of person", s)
        )
        certain = gradient.abs() > 1e-4 * gradient.abs().max()  # the sign of nothing is anybody's guess
        assert certain.float().mean() > 0.98
        assert torch.allclose(result[one][certain], expected[certain], atol=1e-6)


def test_one_step_of_photoguard_is_the_step_of_the_formula(backbone: Backbone, photos: Tensor):
    start = random_start(photos, ELEVEN, generators(5, "s", 3))
    goal = torch.full((3, 4, 16, 16), 0.2)
    objective = encoder_distance(backbone, goal)
    result = ascend(start, photos, objective, generators(0, "x", 3), Plan(ELEVEN, 2 / 255, 1))
    for index in range(3):
        one = slice(index, index + 1)
        expected, gradient = explicit_step(
            start[one],
            photos[one],
            lambda leaf: -(backbone.vae.encode(2 * leaf - 1).latent_dist.mean * 0.7 - 0.2).norm(),
        )
        certain = gradient.abs() > 1e-4 * gradient.abs().max()
        assert torch.allclose(result[one][certain], expected[certain], atol=1e-6)


def test_away_is_the_opposite_of_towards(backbone: Backbone, photos: Tensor):
    goal = torch.zeros(3, 4, 16, 16)
    near, near_slope = value_and_gradient(encoder_distance(backbone, goal), photos, [])
    far, far_slope = value_and_gradient(encoder_distance(backbone, goal, towards=False), photos, [])
    assert torch.equal(near, -far)
    assert torch.equal(near_slope, -far_slope)


def test_draws_are_averaged_and_come_from_one_pass_of_the_encoder(backbone: Backbone, photos: Tensor):
    streams = generators(0, "x", 3)
    loss = denoising(backbone, "a photo", draws=3)(photos, streams)
    streams = generators(0, "x", 3)
    latents, words = backbone.encode(photos, streams), backbone.embed(["a photo"] * 3)
    expected = sum(backbone.denoising_loss(latents, words, streams) for _ in range(3)) / 3
    assert torch.allclose(loss, expected, rtol=1e-5)


def apgd_by_the_book(start: np.ndarray, loss, gradient, radius: float, step: float, steps: int) -> np.ndarray:
    """Croce & Hein 2020, algorithm 1, for one image in [0, 1], written from the paper."""

    def inside(x: np.ndarray) -> np.ndarray:
        return np.clip(np.clip(x, start - radius, start + radius), 0, 1)

    checkpoints, last, gap = [0], 0.0, 0.22
    while last < 1:
        last, gap = last + gap, max(gap - 0.03, 0.06)
        checkpoints.append(max(int(np.ceil(last * steps)), checkpoints[-1] + 1))
    x, before, size = start, start, step
    best, best_loss, losses = start, -np.inf, []
    since_size, since_best = size, -np.inf
    at = 0
    for k in range(steps):
        losses.append(loss(x))
        if losses[-1] > best_loss:
            best, best_loss = x, losses[-1]
        if k + 1 in checkpoints:
            window = losses[at : k + 1]
            gained = sum(b > a for a, b in zip([losses[at - 1] if at else -np.inf, *window[:-1]], window, strict=True))
            if gained < 0.75 * len(window) or (since_size == size and since_best == best_loss):
                since_size, since_best, size, x = size, best_loss, size / 2, best
            else:
                since_size, since_best = size, best_loss
            at = k + 1
        ahead = inside(x + size * np.sign(gradient(x)))
        share = 0.75 if k else 1.0
        x, before = inside(x + share * (ahead - x) + (1 - share) * (x - before)), x
    return best


def test_apgd_is_the_algorithm_of_its_paper():
    """On a narrow valley whose steps overshoot, so that sizes are halved and the best point is taken up again."""
    clean = torch.full((1, 3, 4, 4), 0.5)
    goal = clean + 0.03 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    plan = Plan(ELEVEN, 0.04, 30, "apgd")
    ours = ascend(clean, clean, towards(goal), generators(0, "p", 1), plan)
    book = apgd_by_the_book(
        clean.numpy().astype(np.float64),
        lambda x: -0.5 * ((x - goal.numpy()) ** 2).sum(),
        lambda x: goal.numpy() - x,
        ELEVEN.radius, 0.04, 30,
    )  # fmt: skip
    assert np.abs(ours.numpy() - book).max() < 2e-3
    assert float(towards(goal)(ours, None)) > float(towards(goal)(clean, None)) / 4
