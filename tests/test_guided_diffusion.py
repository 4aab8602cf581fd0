"""The converter against an independent UNet, written from the paper's description and fed by the checkpoint's names."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from redcloak.convert.guided_diffusion import Shape, Tensors, convert, main, write
from redcloak.errors import UserError
from redcloak.models.pixel import PixelDiffusion


class Checkpoint(dict[str, Tensor]):
    """Random tensors, made when the UNet first asks for them by name."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device, self.stream = device, torch.Generator().manual_seed(0)

    def __call__(self, name: str, *shape: int) -> Tensor:
        if name not in self:
            if self.device == "meta":
                self[name] = torch.empty(shape, device="meta")
            else:
                scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.3
                centre = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
                self[name] = centre + scale * torch.randn(shape, generator=self.stream)
        return self[name]


class Guided:
    """Dhariwal and Nichol's UNet, and nothing else that the code can do."""

    def __init__(
        self, weights: Checkpoint, width: int, multiples: tuple[int, ...], layers: int, attention: set[int], head: int
    ) -> None:
        self.w, self.width, self.multiples, self.layers = weights, width, multiples, layers
        self.attention, self.head = attention, head

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, self.w(f"{name}.weight", x.shape[1]), self.w(f"{name}.bias", x.shape[1]), 1e-5)

    def conv(self, name: str, x: Tensor, out: int, size: int) -> Tensor:
        weight, bias = self.w(f"{name}.weight", out, x.shape[1], size, size), self.w(f"{name}.bias", out)
        return F.conv2d(x, weight, bias, padding=size // 2)

    def linear(self, name: str, x: Tensor, out: int) -> Tensor:
        return F.linear(x, self.w(f"{name}.weight", out, x.shape[1]), self.w(f"{name}.bias", out))

    def residual(self, name: str, x: Tensor, out: int, scale: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        inner = scale(F.silu(self.norm(f"{name}.in_layers.0", x)))
        outer = scale(x)
        inner = self.conv(f"{name}.in_layers.2", inner, out, 3)
        film = self.linear(f"{name}.emb_layers.1", F.silu(self.time), 2 * out)[..., None, None]
        inner = self.norm(f"{name}.out_layers.0", inner) * (1 + film[:, :out]) + film[:, out:]
        inner = self.conv(f"{name}.out_layers.3", F.silu(inner), out, 3)
        return (outer if out == x.shape[1] else self.conv(f"{name}.skip_connection", outer, out, 1)) + inner

    def attend(self, name: str, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        flat = self.norm(f"{name}.norm", x).flatten(2)
        joint = F.conv1d(
            flat, self.w(f"{name}.qkv.weight", 3 * channels, channels, 1), self.w(f"{name}.qkv.bias", 3 * channels)
        )
        rows = []
        for number in range(channels // self.head):  # a head's rows lie together: queries, keys, values
            begin = 3 * self.head * number
            q, k, v = (joint[:, begin + self.head * i : begin + self.head * (i + 1)] for i in range(3))
            rows.append(v @ (q.mT @ k / math.sqrt(self.head)).softmax(-1).mT)
        mixed = torch.cat(rows, 1)
        out = F.conv1d(
            mixed, self.w(f"{name}.proj_out.weight", channels, channels, 1), self.w(f"{name}.proj_out.bias", channels)
        )
        return x + out.reshape(count, channels, height, width)

    def __call__(self, x: Tensor, times: Tensor, outputs: int) -> Tensor:
        half = self.width // 2
        angles = times[:, None] * torch.exp(-math.log(10000) * torch.arange(half, device=x.device) / half)
        self.time = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1), 4 * self.width)
        self.time = self.linear("time_embed.2", F.silu(self.time), 4 * self.width)
        h, number, side = self.conv("input_blocks.0.0", x, self.width * self.multiples[0], 3), 1, x.shape[-1]
        skips = [h]
        for level, multiple in enumerate(self.multiples):
            for _ in range(self.layers):
                h = self.residual(f"input_blocks.{number}.0", h, self.width * multiple)
                if h.shape[-1] in self.attention:
                    h = self.attend(f"input_blocks.{number}.1", h)
                skips, number = [*skips, h], number + 1
            if level < len(self.multiples) - 1:
                h = self.residual(f"input_blocks.{number}.0", h, h.shape[1], lambda x: F.avg_pool2d(x, 2))
                skips, number = [*skips, h], number + 1
        h = self.residual("middle_block.0", h, h.shape[1])
        h = self.residual("middle_block.2", self.attend("middle_block.1", h), h.shape[1])
        number = 0
        for level, multiple in reversed(list(enumerate(self.multiples))):
            for layer in range(self.layers + 1):
                h = self.residual(f"output_blocks.{number}.0", torch.cat([h, skips.pop()], 1), self.width * multiple)
                place = 1
                if h.shape[-1] in self.attention:
                    h, place = self.attend(f"output_blocks.{number}.1", h), 2
                if level and layer == self.layers:
                    h = self.residual(
                        f"output_blocks.{number}.{place}",
                        h,
                        h.shape[1],
                        lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3),
                    )
                number += 1
        assert not skips
        assert h.shape[-1] == side
        return self.conv("out.2", F.silu(self.norm("out.0", h)), outputs, 3)


SMALL = {
    "as the public one": ((1, 2, 4), 2, {8, 4}, 32),
    "attention at the top, one layer": ((1, 1), 1, {16}, 16),
    "attention in the middle alone": ((1, 3, 3), 1, set(), 32),
}


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest) -> tuple[Guided, int]:
    multiples, layers, attention, head = SMALL[request.param]
    unet = Guided(Checkpoint(), 32, multiples, layers, attention, head)
    unet(torch.zeros(1, 3, 16, 16), torch.zeros(1), 6)
    return unet, head


def states(count: int = 2) -> Tensor:
    return torch.randn((count, 3, 16, 16), generator=torch.Generator().manual_seed(1))


def test_diffusers_computes_what_guided_diffusion_computes(small: tuple[Guided, int], tmp_path: Path):
    unet, head = small
    write(unet.w, tmp_path / "pixel", 16, head)
    converted = UNet2DModel.from_pretrained(tmp_path / "pixel").eval()
    with torch.no_grad():
        for times in (torch.tensor([0, 999]), torch.tensor([23, 401])):
            expected = unet(states(), times, 6)
            assert (converted(states(), times).sample - expected).abs().max() < 1e-4
    assert expected.std() > 0.1


def test_every_tensor_is_used_exactly_once(small: tuple[Guided, int]):
    unet, head = small
    found = convert(unet.w, head)
    values = [torch.cat([value.flatten() for value in part.values()]).sort().values for part in (unet.w, found)]
    assert torch.equal(*values)
    with torch.device("meta"):
        model = UNet2DModel(**Shape.of(Tensors(unet.w)).config(16, head))
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in found.items()
    }


def test_the_public_model_s_architecture_is_read_off_its_tensors():
    unet = Guided(Checkpoint("meta"), 256, (1, 1, 2, 2, 4, 4), 2, {32, 16, 8}, 64)
    unet(torch.empty((1, 3, 256, 256), device="meta"), torch.empty(1, device="meta"), 6)
    assert sum(value.numel() for value in unet.w.values()) == 552_814_086
    shape = Shape.of(Tensors(unet.w))
    assert shape == Shape((256, 256, 512, 512, 1024, 1024), (False, False, False, True, True, True), 2, 6)
    with torch.device("meta"):
        model = UNet2DModel(**shape.config(256, 64))
        model.load_state_dict(convert(unet.w), assign=True)


def test_the_command_writes_what_the_slot_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    unet = Guided(Checkpoint(), 32, (1, 2), 1, {8}, 64)
    unet(torch.zeros(1, 3, 16, 16), torch.zeros(1), 6)
    torch.save(dict(unet.w), tmp_path / "model.pt")
    main([str(tmp_path / "model.pt"), str(tmp_path / "pixel"), "--side", "16"])
    assert "pixel" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "pixel").iterdir()} == {
        "config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json"
    }  # fmt: skip
    model = PixelDiffusion.load(tmp_path / "pixel")
    assert (model.native, model.variance) == (16, "learned_range")
    reference = DDPMScheduler(1000, 0.0001, 0.02, "linear").alphas_cumprod
    assert torch.allclose(model.alphas_cumprod.float(), reference, rtol=1e-4)
    with torch.no_grad():
        expected = unet(states(), torch.tensor([40, 40]), 6)[:, :3]
    assert torch.allclose(model.predicted_noise(states(), 40), expected, atol=1e-4)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"weight": Trap()}, tmp_path / "trap.pt")
    assert "no checkpoint of plain tensors" in refused([str(tmp_path / "trap.pt"), str(tmp_path / "out")], capsys)
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_read_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text.pt").write_text("no checkpoint")
    assert "no checkpoint of plain tensors" in refused([str(tmp_path / "text.pt"), str(tmp_path / "out")], capsys)
    assert "cannot be read" in refused([str(tmp_path / "absent.pt"), str(tmp_path / "out")], capsys)
    torch.save({"step": 3}, tmp_path / "other.pt")
    assert "holds no tensors by name" in refused([str(tmp_path / "other.pt"), str(tmp_path / "out")], capsys)
    assert "is there already" in refused([str(tmp_path / "other.pt"), str(tmp_path)], capsys)
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "weights_only=True" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["missing", "more", "classes", "resampling", "film", "narrow", "empty", "head"])
def test_another_architecture_is_refused(change: str, small: tuple[Guided, int], tmp_path: Path):
    unet, head = small
    state = dict(unet.w)
    if change == "missing":
        del state["middle_block.1.proj_out.bias"]
        words = r"has no middle_block\.1\.proj_out\.bias"
    elif change == "more":
        state["extra.weight"] = torch.zeros(1)
        words = r"1 tensors too many, extra\.weight"
    elif change == "classes":
        state["label_emb.weight"] = torch.zeros(10, 128)
        words = "unconditional"
    elif change == "resampling":
        state = {name: value for name, value in state.items() if "emb_layers" not in name}
        words = "resblock_updown"
    elif change == "film":
        state["input_blocks.1.0.emb_layers.1.weight"] = torch.zeros(32, 128)
        words = "use_scale_shift_norm"
    elif change == "narrow":
        state["time_embed.0.weight"] = torch.zeros(256, 64)
        words = "not as wide as its time embedding"
    elif change == "empty":
        state, words = {}, "unconditional UNet"
    else:
        head, words = 7, "head = 7"
    with pytest.raises(UserError, match=words):
        write(state, tmp_path / "out", 16, head)
