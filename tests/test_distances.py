"""Distances of photos to their originals, and of sets: LPIPS, the suite's own, the spectrum, KID."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics.functional.image.lpips as theirs
from torch import Tensor, nn
from torchmetrics.image.kid import poly_mmd

from redcloak.api import Context
from redcloak.convert.lpips import convert, main
from redcloak.errors import UserError
from redcloak.metrics import kid, lpips, perceptual, spectrum
from redcloak.models import lpips as network
from redcloak.models import mobilenet
from redcloak.models.features import middle
from redcloak.rng import generator
from redcloak.sets import contributions
from redcloak.sets import kid as of_subsets

HEADS = Path(theirs.__file__).parent / "lpips_models"


@pytest.fixture(scope="module", params=["alex", "vgg"])
def trunk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, nn.Module, Path]:
    """A trunk with random weights, and the file that was made of its pickle and of the real linear weights."""
    folder = tmp_path_factory.mktemp(request.param)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network.Lpips(request.param)
    torch.save({**model.state_dict(prefix=""), "classifier.0.weight": torch.zeros(3)}, folder / "all.pth")
    state = torch.load(folder / "all.pth", weights_only=True)
    torch.save({name: value for name, value in state.items() if not name.startswith("heads")}, folder / "trunk.pth")
    convert(folder / "trunk.pth", HEADS / f"{request.param}.pth", folder / "lpips.safetensors")
    return request.param, model.features, folder / "lpips.safetensors"


def test_lpips_is_torchmetrics_s(trunk, photos: Tensor, context: Context, monkeypatch: pytest.MonkeyPatch):
    """Its own layers, slices and linear weights; only the trunk, for which it wants torchvision, is handed in."""
    name, features, path = trunk
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda net, pretrained: features)
    altered = (photos + 0.1 * torch.randn(photos.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    expected = theirs._LPIPS(net=name)(altered, photos, normalize=True).flatten()
    context = replace(context, reference=photos)
    values = lpips.lpips(altered, lpips.Config(weights=path), context)["lpips"]
    assert torch.allclose(values, expected, rtol=1e-4)
    assert values.min() > 0
    assert lpips.lpips(photos, lpips.Config(weights=path), context)["lpips"].tolist() == [0, 0, 0]


def test_lpips_without_its_weights_is_one_line(trunk, tmp_path: Path, photos: Tensor, context: Context, capsys):
    name, _, path = trunk
    with pytest.raises(UserError, match=r"--set lpips\.weights=FILE"):
        lpips.Config().check()
    with pytest.raises(UserError, match="no such file"):
        lpips.Config(weights=tmp_path / "none").check()
    (tmp_path / "text.safetensors").write_text("nothing")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        network.load(tmp_path / "text.safetensors")
    with pytest.raises(UserError, match="No such file"):
        network.load(tmp_path / "none.safetensors")
    other = "vgg" if name == "alex" else "alex"
    arguments = [str(path.parent / "trunk.pth"), str(HEADS / f"{other}.pth"), str(tmp_path / "out.safetensors")]
    assert main(arguments) == 2
    assert "do not make LPIPS" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
    assert main(arguments[:2]) == 2
    assert main([*arguments[:2], "out.pt"]) == 2


@pytest.mark.parametrize("module", [lpips, perceptual, spectrum])
def test_a_distance_needs_the_original(module, photos: Tensor, context: Context):
    name = module.__name__.rpartition(".")[2]
    for reference in (None, photos[:2], middle(photos)[..., 8:]):
        with pytest.raises(UserError, match=f"{name}: it needs the original"):
            getattr(module, name)(photos, module.Config(), replace(context, reference=reference))


def test_the_suite_s_own_distance(photos: Tensor, context: Context):
    context = replace(context, reference=photos)
    near, far = ((photos + size * torch.sign(photos - 0.4)).clamp(0, 1) for size in (0.02, 0.2))
    values = [perceptual.perceptual(images, perceptual.Config(), context)["perceptual"] for images in (near, far)]
    assert torch.allclose(values[0], context.suite.perceptual(near, photos))
    assert bool((values[0] < values[1]).all())
    assert perceptual.perceptual(photos, perceptual.Config(), context)["perceptual"].tolist() == [0, 0, 0]


def wave(cycles: float, size: int = 64) -> Tensor:
    """A grating of so many cycles a pixel along the rows."""
    line = 0.5 + 0.1 * torch.cos(2 * math.pi * cycles * torch.arange(size))
    return line.expand(1, 3, size, size).contiguous()


@pytest.mark.parametrize("cycles", [1 / 64, 15 / 64, 16 / 64, 0.5])
def test_the_spectrum_of_a_grating_is_one_line(cycles: float, context: Context):
    values = spectrum.spectrum(
        wave(cycles), spectrum.Config(), replace(context, reference=torch.full_like(wave(0), 0.5))
    )
    assert float(values["mean_frequency"]) == pytest.approx(cycles, abs=1e-5)
    assert float(values["high_share"]) == pytest.approx(float(cycles >= 0.25), abs=1e-5)


def test_the_spectrum_of_white_noise_and_of_nothing(context: Context):
    noise = torch.rand(4, 3, 256, 256, generator=torch.Generator().manual_seed(0)) - 0.5
    flat = torch.full_like(noise, 0.5)
    values = spectrum.spectrum(flat + noise, spectrum.Config(), replace(context, reference=flat))
    assert values["high_share"].tolist() == pytest.approx([1 - math.pi / 16] * 4, abs=0.01)
    places = (np.indices((512, 512)) - 255.5) / 512
    assert values["mean_frequency"].tolist() == pytest.approx([np.hypot(*places).mean()] * 4, abs=0.003)
    nothing = spectrum.spectrum(flat, spectrum.Config(), replace(context, reference=flat))
    assert nothing["high_share"].isnan().all()


@pytest.fixture(scope="module")
def features() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    return torch.randn(20, 16, generator=stream).double(), torch.randn(20, 16, generator=stream).double() + 0.3


def test_kid_is_torchmetrics_s(features: tuple[Tensor, Tensor]):
    x, y = features
    assert float(contributions(x, y).mean()) == pytest.approx(float(poly_mmd(y, x)), rel=1e-9)
    draws = of_subsets(x, y, generator(0, "kid"), subset=8, subsets=5)
    stream = generator(0, "kid")
    for draw in draws:
        rows = [torch.randperm(20, generator=stream)[:8] for _ in range(2)]
        assert float(draw) == pytest.approx(float(poly_mmd(y[rows[1]], x[rows[0]])), rel=1e-9)


def test_a_subset_that_is_the_set_has_no_spread_and_sets_may_differ_in_size(features: tuple[Tensor, Tensor]):
    x, y = features
    draws = of_subsets(x, y, generator(0, "kid"), subsets=3)
    assert draws.tolist() == pytest.approx([float(contributions(x, y).mean())] * 3)
    assert of_subsets(x, y[:5], generator(0, "kid")).shape == (100,)
    with pytest.raises(UserError, match="subset = 21: the sets have 20 and 20 pictures; choose 2 to 20"):
        of_subsets(x, y, generator(0, "kid"), subset=21)
    assert contributions(x[:1], y).isnan().all()


def test_kid_is_unbiased(features: tuple[Tensor, Tensor]):
    """Of two samples of one distribution it is 0 on average, however small they are."""
    stream = torch.Generator().manual_seed(1)
    draws = [float(contributions(*torch.randn(2, 4, 16, generator=stream)).mean()) for _ in range(2000)]
    error = np.std(draws) / np.sqrt(len(draws))
    assert abs(np.mean(draws)) < 3 * error
    assert float(contributions(*features).mean()) > 20 * error


@pytest.mark.parametrize("kind", ["clip", "mobilenet"])
def test_the_score_is_the_same_on_unit_features(kind: str, photos: Tensor, context: Context):
    from torch.nn.functional import normalize

    context = replace(context, reference=1 - photos)
    values = kid.kid(photos, kid.Config(features=kind), context)["kid"]
    embed = context.suite.clip.embed_images if kind == "clip" else kid._mobilenet("cpu")
    x, y = (normalize(embed(each), dim=1).double() for each in (photos, 1 - photos))
    root = math.sqrt(x.shape[1])
    assert float(values.double().mean()) == pytest.approx(float(poly_mmd(y * root, x * root)), abs=1e-4)
    with pytest.raises(UserError, match="kid: it needs reference photos"):
        kid.kid(photos, kid.Config(), replace(context, reference=None))


def test_the_package_of_the_features_enters_the_key():
    assert kid.Config().models() == {}
    assert kid.Config(features="mobilenet").models() == {mobilenet.PACKAGE: version(mobilenet.PACKAGE)}


def test_an_audit_asks_generated_pictures_for_no_original(suite_folder: Path, tmp_path: Path):
    from redcloak.audit import Audit
    from redcloak.config import AuditConfig

    config = AuditConfig(photos="drawn:1", suite=str(suite_folder), metrics=("quality", "spectrum", "fidelity"))
    arm = next(arm for arm in Audit.prepare(config, tmp_path).arms if arm.summary.name == "protected")

    def asked(node) -> list[str]:
        return [method["name"] for method in node.config["metrics"]]

    assert [asked(node) for _, node in arm.scores] == [["quality"]] * 2
    assert asked(arm.photo_scores) == ["quality", "spectrum", "fidelity"]
    assert "clean" in arm.photo_scores.inputs
