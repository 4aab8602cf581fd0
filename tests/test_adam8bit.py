"""8-bit Adam against torch's AdamW, and its levels against the definition of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import checksum
from torch import Tensor, nn

from redcloak.api import Context
from redcloak.backbone import Backbone
from redcloak.registry import load
from redcloak.rng import generator
from redcloak.runtime.checkpoint import FileCheckpoint
from redcloak.training.adam8bit import BLOCK, SMALL, Adam8bit, dequantise, levels, quantise


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("signed", [False, True])
def test_there_are_256_levels_dense_towards_zero(signed: bool):
    table = levels(signed=signed)
    assert len(table.unique()) == 256
    assert torch.equal(table, table.sort().values)
    assert {0.0, 1.0} <= set(table.tolist())
    assert table.min() == (-table[-2] if signed else 0)
    top = table[table > 0.1]  # the top decade: 64 equal parts, and without a sign 128
    assert len(top) - 1 == (64 if signed else 128)
    assert torch.allclose(top[:-1].diff(), torch.tensor(0.9 / (len(top) - 1)), rtol=1e-4)
    assert table[table > 0].min() == pytest.approx(5.5e-7 if signed else 3.25e-7)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("count", [1, BLOCK, 3 * BLOCK + 7])
def test_a_value_comes_back_as_the_nearest_level(signed: bool, count: int):
    values = randn(count) * torch.logspace(-3, 3, count)
    values = values if signed else values.abs()
    codes, scale = quantise(values, signed=signed)
    assert codes.dtype == torch.uint8
    assert (len(codes), len(scale)) == (count, -(-count // BLOCK))
    again = dequantise(codes, scale, values.shape, signed=signed)
    blocks = scale.repeat_interleave(BLOCK)[:count]
    nearest = (values.div(blocks).unsqueeze(1) - levels(signed=signed)).abs().amin(1)
    assert torch.allclose((again - values).abs() / blocks, nearest, atol=1e-6)
    large = values.abs() > blocks / 10
    assert ((again - values).abs() / values.abs())[large].max() < (0.08 if signed else 0.04)


def test_zeros_stay_zeros():
    codes, scale = quantise(torch.zeros(BLOCK), signed=True)
    assert not dequantise(codes, scale, torch.Size([BLOCK]), signed=True).any()


def descend(optimizer: type[torch.optim.Optimizer], steps: int) -> tuple[Tensor, Tensor, float]:
    """A regression whose inputs differ in size: where it begins, where it ends, and its last loss."""
    inputs = randn(64, 96, seed=1) * torch.logspace(-0.5, 0.5, 96)
    outputs = inputs @ randn(96, 64, seed=2) * 0.1
    net = nn.Linear(96, 64)
    with torch.no_grad():
        net.weight.copy_(randn(64, 96, seed=3) * 0.1)
        net.bias.zero_()
    begun, descent = net.weight.detach().clone(), optimizer(net.parameters(), lr=1e-3, weight_decay=1e-2)
    assert net.weight.numel() > SMALL > net.bias.numel()
    for _ in range(steps):
        loss = (net(inputs) - outputs).pow(2).mean()
        loss.backward()
        descent.step()
        descent.zero_grad()
    return begun, net.weight.detach(), float(loss.detach())


def test_it_goes_where_adamw_goes():
    begun, exact, exact_loss = descend(torch.optim.AdamW, 100)
    _, found, loss = descend(Adam8bit, 100)
    way = (found - exact).norm() / (exact - begun).norm()
    assert 0 < way < 0.15, "a tenth of the way astray"
    assert loss == pytest.approx(exact_loss, rel=0.05)


def test_small_parameters_follow_adamw_to_the_rounding_of_floats():
    ends = []
    for optimizer in (torch.optim.AdamW, Adam8bit):
        value = nn.Parameter(randn(50))
        descent = optimizer([value], lr=1e-2, betas=(0.8, 0.99), weight_decay=0.1)
        for _ in range(20):
            (value - 3).pow(4).sum().backward()
            descent.step()
            descent.zero_grad()
        ends.append(value.detach())
    assert torch.allclose(*ends, atol=1e-6)


def test_a_tiny_gradient_takes_no_boundless_step():
    """Values ten decades apart in one block: no step is longer than a few learning rates."""
    value = nn.Parameter(torch.zeros(BLOCK * 2))
    descent = Adam8bit([value], lr=1e-3, weight_decay=0)
    sizes = torch.logspace(-10, 0, BLOCK * 2)
    for step in range(30):
        before = value.detach().clone()
        value.grad = sizes * randn(BLOCK * 2, seed=step)
        descent.step()
        assert (value.detach() - before).abs().max() < 4e-3


def test_two_bytes_a_parameter():
    value = nn.Parameter(randn(100 * BLOCK))
    descent = Adam8bit([value])
    value.grad = randn(100 * BLOCK, seed=1)
    descent.step()
    size = sum(kept.numel() * kept.element_size() for kept in descent.state[value].values())
    assert size / value.numel() < 2.01


def test_a_trainer_takes_it_and_goes_on_after_a_kill(
    photos: Tensor, context: Context, backbone: Backbone, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    from redcloak.runtime import checkpoint
    from redcloak.training import adam8bit

    monkeypatch.setattr(checkpoint, "COST", 0)
    monkeypatch.setattr(adam8bit, "SMALL", 64)  # so that something of the small model is kept in 8 bits
    entry, sums = load("personalize", "dreambooth"), []

    def trained(optimizer: str, steps: int, **more: object) -> None:
        config = entry.configure(steps=steps, lr=1e-4, optimizer=optimizer)
        with backbone.borrowed():
            entry.function(photos, config, replace(context, **more), generator(0, "d"))
            sums.append(checksum(backbone))

    trained("adamw", 4)
    trained("adam8bit", 4)
    trained("adam8bit", 2, checkpoint=FileCheckpoint(tmp_path, seconds=0))
    trained("adam8bit", 4, checkpoint=FileCheckpoint(tmp_path, seconds=0))
    assert sums[0] != sums[1]
    assert sums[3] == sums[1]
