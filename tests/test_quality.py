"""No-reference quality: each score against an implementation that is not ours."""

from __future__ import annotations

import importlib
import pickle
import sys
import types
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from PIL import Image
from skimage.color import rgb2gray
from skimage.data import astronaut as photograph
from torch import Tensor, nn
from torchmetrics.functional.multimodal.clip_iqa import _clip_iqa_compute

from redcloak import registry
from redcloak.api import Context, Subject
from redcloak.convert.liqe import convert, main
from redcloak.errors import UserError
from redcloak.metrics import brisque, clip_iqa, niqe, overall
from redcloak.metrics import liqe as liqe_metric
from redcloak.models.liqe import DISTORTIONS, PATCHES, QUALITIES, SCENES, liqe, patches
from redcloak.scenestats import fit
from redcloak.suite import Suite

LUMA = np.array([0.299, 0.587, 0.114])[:, None, None]


@pytest.fixture(scope="module")
def astronaut() -> Tensor:
    return torch.from_numpy(photograph().copy()).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def worse(astronaut: Tensor) -> Tensor:
    """A clean photo, the same with noise, and blurred."""
    noise = 0.1 * torch.randn(astronaut.shape, generator=torch.Generator().manual_seed(0))
    blurred = nn.functional.avg_pool2d(astronaut, 9, 1, 4)
    return torch.cat([astronaut, (astronaut + noise).clamp(0, 1), blurred])


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The package brisque, whose libsvm is not here: features and scaling are its own."""
    with warnings.catch_warnings(action="ignore"), pytest.MonkeyPatch.context() as patch:
        svmutil = SimpleNamespace(svm_load_model=lambda path: None)
        patch.setitem(sys.modules, "libsvm", types.ModuleType("libsvm"))
        patch.setattr(sys.modules["libsvm"], "svmutil", svmutil, raising=False)
        return importlib.import_module("brisque").BRISQUE()


def test_brisque_has_the_features_of_the_package(astronaut: Tensor, theirs: Any):
    grey = rgb2gray(photograph())
    ours = brisque.features((astronaut[0].double().numpy() * np.array([0.2125, 0.7154, 0.0721])[:, None, None]).sum(0))
    expected = [float(np.ravel(value)[0]) for value in theirs.calculate_brisque_features(grey)]
    assert ours[:18] == pytest.approx(expected, abs=1e-3)
    low, high, *_ = brisque._model()
    assert (-1 + 2 * (ours - low) / (high - low)).tolist() == pytest.approx(theirs.scale_features(ours).tolist())


def test_brisque_s_regression_is_libsvm_s_sum(astronaut: Tensor):
    """Summed up in another way, term by term from the file; and the value that the package gives for this photo."""
    _, _, weights, vectors, gamma, rho = brisque._model()
    point = np.linspace(-0.9, 0.9, 36)
    low, high = brisque._model()[:2]
    by_hand = sum(
        w * np.exp(-gamma * sum((a - b) ** 2 for a, b in zip(row, point, strict=True)))
        for w, row in zip(weights, vectors, strict=True)
    )
    assert brisque._regress(low + (point + 1) / 2 * (high - low)) == pytest.approx(by_hand - rho)
    assert len(weights) == 770, "as the file says"


def test_brisque_tells_noise_and_blur_from_a_clean_photo(worse: Tensor, context: Context):
    values = brisque.brisque(worse, brisque.Config(), context)["brisque"]
    theirs = [10.7995, 52.2025, 74.5994]  # brisque 0.2.0 with libsvm-official 3.37.0
    assert values.tolist() == pytest.approx(theirs, abs=0.02)


def test_brisque_reads_no_pickle_that_runs_code():
    with pytest.raises(pickle.UnpicklingError, match="in a file of numbers"):
        brisque._Plain(__import__("io").BytesIO(pickle.dumps(print))).load()


@pytest.fixture(scope="module")
def skvideo() -> Any:
    """scikit-video's NIQE, with the names that numpy and scipy have dropped put back."""
    with warnings.catch_warnings(action="ignore"), pytest.MonkeyPatch.context() as patch:
        misc = types.ModuleType("scipy.misc")
        misc.imresize = lambda image, scale, interp, mode: np.asarray(
            Image.fromarray(image).resize([round(side * scale) for side in image.shape[::-1]], Image.Resampling.BICUBIC)
        )
        patch.setitem(sys.modules, "scipy.misc", misc)
        patch.setattr(scipy, "misc", misc, raising=False)
        for name in ("int", "float", "bool"):
            patch.setattr(np, name, getattr(__builtins__, name, None) or __builtins__[name], raising=False)
        importlib.import_module("skvideo.measure")
        yield sys.modules["skvideo.measure.niqe"]


def test_niqe_is_scikit_video_s(worse: Tensor, skvideo: Any, context: Context):
    """Its table of shapes has steps of 0.001; between them ours is exact."""
    frames = (worse.double().numpy() * LUMA).sum(1) * 255
    with warnings.catch_warnings(action="ignore"):
        expected = skvideo.niqe(frames[..., None])
    values = niqe.niqe(worse, niqe.Config(), context)["niqe"]
    assert values.tolist() == pytest.approx(expected.tolist(), rel=2e-3)
    assert values[0] < values[1:].min()


@pytest.mark.parametrize("side", [64, 100, 191])
def test_niqe_is_undefined_where_there_are_too_few_patches(side: int, astronaut: Tensor, context: Context):
    assert niqe.niqe(astronaut[..., :side, :side], niqe.Config(), context)["niqe"].isnan().all()


def test_a_picture_without_texture_has_no_statistics(context: Context):
    flat = torch.full((1, 3, 200, 200), 0.5)
    assert niqe.niqe(flat, niqe.Config(), context)["niqe"].isnan().all()
    assert np.isnan(fit(np.zeros(9))).all()


def test_a_fit_finds_the_shape_of_what_was_drawn():
    stream = np.random.default_rng(0)
    for alpha, draws in {2.0: stream.normal(size=200_000), 1.0: stream.laplace(size=200_000)}.items():
        found = fit(draws)
        assert found.alpha == pytest.approx(alpha, rel=0.02)
        assert found.left == pytest.approx(draws.std(), rel=0.02)
        assert found.mean == pytest.approx(0, abs=0.02)


def test_clip_iqa_is_torchmetrics_s(photos: Tensor, context: Context):
    clip = context.suite.clip
    values = clip_iqa.clip_iqa(photos, clip_iqa.Config(), context)
    anchors = clip.embed_texts(["Good photo.", "Bad photo."])
    expected = _clip_iqa_compute(clip.embed_images(photos), anchors, ["quality"])
    assert torch.allclose(values["clip_iqa"], expected.flatten(), atol=1e-5)
    pair = clip.zero_shot(photos, ["a good photo of face", "a bad photo of face"])
    assert torch.allclose(values["clip_iqac"], pair[:, 0] - pair[:, 1])
    other = clip_iqa.clip_iqa(photos, clip_iqa.Config(), replace(context, subject=Subject("dog")))
    assert torch.equal(other["clip_iqa"], values["clip_iqa"])
    assert not torch.allclose(other["clip_iqac"], values["clip_iqac"], atol=1e-6)


class Attention(nn.Module):
    """A block of OpenAI's CLIP, under its names and with torch's attention."""

    def __init__(self, width: int, mask: Tensor | None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.ln_1, self.ln_2, self.mask = nn.LayerNorm(width), nn.LayerNorm(width), mask
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False, attn_mask=self.mask)[0]
        wide = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](wide * torch.sigmoid(1.702 * wide))


class Openai(nn.Module):
    """OpenAI's CLIP from its paper: what the converter's result must equal."""

    def __init__(self, words: int, length: int, width: int = 64, side: int = 64, patch: int = 16) -> None:
        super().__init__()
        places = (side // patch) ** 2 + 1
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.visual.class_embedding = nn.Parameter(torch.randn(width))
        self.visual.positional_embedding = nn.Parameter(torch.randn(places, width))
        self.visual.ln_pre, self.visual.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.visual.proj = nn.Parameter(torch.randn(width, 32))
        self.visual.transformer = nn.Module()
        self.visual.transformer.resblocks = nn.Sequential(*(Attention(width, None) for _ in range(2)))
        self.transformer = nn.Module()
        mask = torch.full((length, length), -torch.inf).triu(1)
        self.transformer.resblocks = nn.Sequential(Attention(width, mask))
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.randn(length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, 32))
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_image(self, images: Tensor) -> Tensor:
        mean, spread = (
            torch.tensor([0.48145466, 0.4578275, 0.40821073]),
            torch.tensor([0.26862954, 0.26130258, 0.27577711]),
        )
        x = self.visual.conv1((images - mean[:, None, None]) / spread[:, None, None]).flatten(2).permute(0, 2, 1)
        first = self.visual.class_embedding.expand(len(x), 1, -1)
        x = self.visual.ln_pre(torch.cat([first, x], 1) + self.visual.positional_embedding)
        x = self.visual.transformer.resblocks(x.permute(1, 0, 2))[0]
        return nn.functional.normalize(self.visual.ln_post(x) @ self.visual.proj, dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        x = (self.token_embedding(tokens) + self.positional_embedding).permute(1, 0, 2)
        x = self.ln_final(self.transformer.resblocks(x).permute(1, 0, 2))
        ends = x[torch.arange(len(x)), tokens.argmax(1)]
        return nn.functional.normalize(ends @ self.text_projection, dim=-1)


@pytest.fixture(scope="module")
def checkpoint(suite_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Openai, Path, Path]:
    """A CLIP with random weights, its pickle, and the folder that it was converted to."""
    folder = tmp_path_factory.mktemp("liqe")
    tokenizer = transformers_tokenizer(suite_folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Openai(len(tokenizer), tokenizer.model_max_length).eval().requires_grad_(False)
    torch.save(model.state_dict(), folder / "LIQE.pt")
    assert convert(folder / "LIQE.pt", suite_folder / "tokenizer", folder / "out") > 50
    return model, folder / "LIQE.pt", folder / "out"


def transformers_tokenizer(suite_folder: Path) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(suite_folder / "tokenizer")


def test_liqe_is_the_paper_s_on_openai_s_clip(checkpoint: Any, suite_folder: Path, astronaut: Tensor, context: Context):
    """Every sentence and every patch by the paper's formula, on the CLIP that was converted."""
    model, _, folder = checkpoint
    image = nn.functional.avg_pool2d(astronaut, 2)[..., :224, :]
    tokenizer = transformers_tokenizer(suite_folder)
    quality, total = {}, torch.zeros(0)
    windows = image.unfold(2, 64, 32).unfold(3, 64, 32).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 64, 64)
    chosen = windows[[len(windows) // 15 * index for index in range(15)]]
    pictures = model.encode_image(chosen)
    logits = []
    for word in QUALITIES:
        for scene in SCENES:
            texts = [f"a photo of a {scene} with {kind} artifacts, which is of {word} quality" for kind in DISTORTIONS]
            tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
            logits.append((model.logit_scale.exp() * pictures @ model.encode_text(tokens).T).mean(0))
    total = torch.cat(logits).softmax(0)
    quality = {word: float(part.sum()) for word, part in zip(QUALITIES, total.chunk(5), strict=True)}
    expected = sum(rank * quality[word] for rank, word in enumerate(QUALITIES, 1))
    values = liqe_metric.liqe(image, liqe_metric.Config(weights=folder), context)["liqe"]
    assert float(values) == pytest.approx(expected, abs=1e-3)
    assert 1 < float(values) < 5


def test_a_suite_takes_liqe_for_its_quality_model(checkpoint: Any, suite_folder: Path, tmp_path: Path, photos: Tensor):
    folder = checkpoint[2]
    spec = (suite_folder / "suite.yaml").read_text().replace("quality: quality", f"quality: {folder}")
    (tmp_path / "suite.yaml").write_text(spec)
    assert torch.equal(Suite(tmp_path).quality(photos), liqe(folder)(photos))


def test_patches_are_spread_and_small_pictures_enlarged(astronaut: Tensor):
    found = patches(astronaut, 224)
    assert found.shape == (PATCHES, 3, 224, 224)
    assert torch.equal(found[0], astronaut[0, :, :224, :224])
    assert len({float(patch.mean()) for patch in found}) == PATCHES, "not the first one fifteen times"
    assert patches(astronaut[..., :64, :48], 224).shape == (3, 3, 224, 224)
    assert patches(astronaut[..., :224, :224], 224).shape == (1, 3, 224, 224)


def test_what_is_not_liqe_is_one_line(checkpoint: Any, tmp_path: Path, context: Context, capsys):
    _, pickled, _ = checkpoint
    state = torch.load(pickled, weights_only=True)
    tokenizer = Path(context.suite.folder) / "tokenizer"
    torch.save({name: value for name, value in state.items() if name != "visual.proj"}, tmp_path / "less.pt")
    torch.save(state | {"visual.transformer.resblocks.0.odd": torch.zeros(1)}, tmp_path / "more.pt")
    (tmp_path / "text.pt").write_text("no weights")
    wrong = {"less.pt": "no visual.proj", "more.pt": "resblocks.0.odd", "text.pt": "no checkpoint", "no.pt": "No such"}
    for name, message in wrong.items():
        assert main([str(tmp_path / name), str(tokenizer), str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert main([str(pickled), str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert "no CLIP tokenizer" in capsys.readouterr().err
    assert main([]) == 2
    with pytest.raises(UserError, match=r"--set liqe.weights=FOLDER"):
        liqe_metric.Config().check()
    with pytest.raises(UserError, match=r"no config.json"):
        liqe_metric.Config(weights=tmp_path).check()
    with pytest.raises(UserError, match="not LIQE's"):
        liqe(context.suite.folder / "quality")


def test_the_sums_of_the_paper(photos: Tensor, context: Context):
    context = replace(context, reference=photos)
    config = overall.Config(identity={"name": "ims", "weight": 0.5})
    values = overall.overall(photos, config, context)
    quality = context.suite.quality(photos)
    iqac = clip_iqa.clip_iqa(photos, clip_iqa.Config(), context)["clip_iqac"]
    from redcloak.metrics.ims import Config, ims

    identity = ims(photos, Config(weight=0.5), context)["ims"]
    assert torch.allclose(values["q"], 0.5 * (2 * (quality - 1) / 4 - 1) + 0.5 * iqac, atol=1e-6)
    assert torch.allclose(values["avg"], 0.5 * identity + 0.5 * values["q"], atol=1e-6)


def test_the_sums_take_only_scores_of_their_scale():
    configure = registry.load("metrics", "overall").configure
    assert configure(quality={"name": "liqe", "weights": "folder"}).quality.name == "liqe"
    with pytest.raises(UserError, match=r"identity = 'identity': .*its scale does not fit the sum; choose ims\."):
        configure(identity="identity")
    with pytest.raises(UserError, match=r"quality = 'brisque': .*does not fit the sum; choose quality or liqe"):
        configure(quality="brisque")


@pytest.mark.parametrize(("ims", "q", "avg"), [(0.116, -0.070, 0.023), (0.160, 0.038, 0.099), (-0.215, 0.028, -0.094)])
def test_avg_is_that_of_the_paper_s_tables(ims: float, q: float, avg: float):
    """Tables 3 and 4 of the paper."""
    assert float(overall.mean_of(torch.tensor(ims), torch.tensor(q))) == pytest.approx(avg, abs=1e-3)
