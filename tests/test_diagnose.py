"""The verb and what it writes, on a suite of random weights."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from redcloak.api import Context
from redcloak.cli import main
from redcloak.config import Choice
from redcloak.diagnose.groups import control, groups, linf, pairs, purified
from redcloak.diagnose.interventions import spectrum_apart
from redcloak.diagnose.misalignment import SCORES, measure
from redcloak.errors import UserError
from redcloak.images import load_images, save_images, to_tensor
from redcloak.portraits import subject
from redcloak.report.table import Table
from redcloak.suite import Suite

QUICK = ["--purify", "gaussian;jpeg,median", "--set", "class_images=3", "--set", "sampling_steps=2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Clean photos, and the same with something added, as another tool might name them."""
    here = tmp_path_factory.mktemp("photos")
    clean = to_tensor(subject(1, shots=4))
    save_images(here / "clean", clean, [f"me-{index}.png" for index in range(4)])
    added = (torch.rand(clean.shape, generator=torch.Generator().manual_seed(0)) * 32 - 16).round() / 255
    save_images(here / "protected", (clean + added).clamp(0, 1), [f"noisy_me-{index}.png" for index in range(4)])
    return here / "protected", here / "clean"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_the_verb(folders, suite_folder: Path, suite: Suite, tmp_path: Path, capsys):
    out = tmp_path / "out"
    given = ["diagnose", folders[0], "--clean", folders[1], "--suite", suite_folder, "--out", out, *QUICK]
    assert run(*given, "--control", "random_noise", "--control", "shuffled") == 0
    shown = capsys.readouterr().out
    assert "share of the class" in shown.splitlines()[0]
    assert "small, photos" in shown
    assert "small, after the autoencoder" in shown
    found = json.loads((out / "diagnose.json").read_text())
    names = ["clean", "protected", "protected+gaussian", "protected+jpeg+median", "random_noise", "shuffled"]
    assert [group["name"] for group in found["groups"]] == names
    assert [group["linf"] for group in found["groups"]][:2] == [0, 16]
    assert found["members"] == 3
    assert {one["kind"] for one in found["maps"]} == {"pca", "svd", "tsne"}
    assert {name: len(points) for name, points in found["maps"][0]["points"].items()} == dict.fromkeys(names, 4) | {
        "class": 3
    }
    assert found["notes"] == []
    _agrees(found, Table.read(out / "scores.parquet"), folders, suite)
    _stands_alone((out / "diagnose.html").read_text())


def _agrees(found: dict, table: Table, folders: tuple[Path, Path], suite: Suite) -> None:
    """The numbers are those of the measures, photo by photo, and their means."""
    protected, names = load_images(folders[0], 64)
    clean, _ = load_images(folders[1], 64)
    expected = measure(protected, "a photo of person", suite.clip, suite.backbone, clean=clean)
    lines = {(line["group"], line["score"]): line for line in found["lines"]}
    assert {score for _, score in lines} == set(SCORES)
    for score, values in expected.items():
        stored = table.select(arm="protected", metric=f"small/{score}").value
        assert np.allclose(stored, values, atol=1e-5)
        assert lines["protected", score]["mean"]["estimate"] == pytest.approx(float(values.mean()), abs=1e-5)
        assert lines["protected", score]["change"]["over"] == "pictures"
        assert lines["clean", score]["change"] is None
    assert len(names) == 4


def _stands_alone(page: str) -> None:
    outside = re.findall(r"""(?:src|href)="(?!data:|#)([^"]*)""", page)
    assert outside == []
    assert "<script" not in page
    assert page.count("<svg") == 3 + 9
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_json_for_machines(folders, suite_folder: Path, tmp_path: Path, capsys):
    given = ["diagnose", folders[0], "--clean", folders[1], "--suite", suite_folder, "--out", tmp_path / "out"]
    few = ["--purify", "", "--control", "", "--map", "", "--set", "class_images=0"]
    assert run(*given, *few, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [group["name"] for group in found["groups"]] == ["clean", "protected"]
    assert found["maps"] == []
    assert "No distance to the class" in " ".join(found["notes"])
    assert not any(line["score"].startswith("class_distance") for line in found["lines"])
    assert run(*given, *few) == 0, "the same verb may write there again"


def test_one_photo_says_what_it_cannot_tell(folders, suite_folder: Path, tmp_path: Path, capsys):
    for folder in folders:
        kept = sorted(folder.iterdir())[0]
        (tmp_path / folder.name).mkdir()
        shutil.copy(kept, tmp_path / folder.name)
    given = ["diagnose", tmp_path / "protected", "--clean", tmp_path / "clean", "--suite", suite_folder]
    assert run(*given, "--out", tmp_path / "out", "--set", "class_images=0", "--purify", "") == 0
    found = json.loads((tmp_path / "out" / "diagnose.json").read_text())
    notes = " ".join(found["notes"])
    assert "One photo" in notes
    assert "t-SNE: 3 points; it needs at least 5" in notes
    change = next(line["change"] for line in found["lines"] if line["group"] == "protected")
    assert change["estimate"] is not None
    assert change["low"] is None
    assert "undecided (n = 1)" in capsys.readouterr().out


def test_drawn_people_are_their_own_clean_photos(tmp_path: Path):
    shots = to_tensor(subject(0, shots=12)[:6])
    save_images(tmp_path / "protected", shots, [f"shot-{index:02d}.png" for index in range(6)])
    found = pairs(str(tmp_path / "protected"), "drawn:0", 64)
    assert torch.equal(to_tensor(list(found.clean)), to_tensor(list(found.protected)))


def test_purified_as_the_step_purifies(folders, suite_folder: Path, suite: Suite, tmp_path: Path):
    chain = "gaussian_noise,jpeg"
    assert run("purify", folders[0], "--with", chain, "--suite", suite_folder, "--out", tmp_path / "out") == 0
    expected, _ = load_images(tmp_path / "out")
    images, _ = load_images(folders[0])
    found = purified(images, [Choice(name=name) for name in chain.split(",")], Context(suite))
    assert torch.equal(found, expected)


def test_controls_have_the_size_of_the_protection(folders, suite: Suite):
    found = pairs(str(folders[0]), str(folders[1]), 64)
    clean, protected = to_tensor(list(found.clean)), to_tensor(list(found.protected))
    offset = protected - clean
    names = ("random_noise", "matched_noise", "shuffled", "transplant")
    made = {name: control(name, clean, protected, Context(suite)) for name in names}
    assert linf(made["random_noise"], clean) == linf(protected, clean) == 16
    moved = made["transplant"] - clean
    inside = ((clean + offset.roll(-1, 0)) - 0.5).abs() <= 0.5
    assert torch.allclose(moved[inside], offset.roll(-1, 0)[inside], atol=1e-6)
    assert float(spectrum_apart(made["matched_noise"] - clean, offset).max()) < 0.2  # of these photos' own
    assert float(spectrum_apart(made["random_noise"] - clean, offset).min()) > 0.2
    shuffled = made["shuffled"] - clean
    assert float(shuffled.std()) == pytest.approx(float(offset.std()), rel=0.1)
    assert abs(float(torch.corrcoef(torch.stack([shuffled.ravel(), offset.ravel()]))[0, 1])) < 0.2


def test_no_control_of_nothing(folders, suite: Suite):
    same = pairs(str(folders[1]), str(folders[1]), 64)
    made, notes = groups(same, [], ["random_noise"], Context(suite))
    assert [one.name for one in made] == ["clean", "protected"]
    assert notes == ["L_inf is 0/255, so there is no control of the same size (1 to 64/255)."]


def _another_name(here: Path) -> None:
    next(iter((here / "protected").iterdir())).rename(here / "protected" / "somebody.png")


def _one_more(here: Path) -> None:
    shutil.copy(next(iter((here / "protected").iterdir())), here / "protected" / "extra.png")


def _another_size(here: Path) -> None:
    save_images(here / "protected", torch.rand(1, 3, 80, 80), ["noisy_me-0.png"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_another_name, "no photo carries the name of the clean"),
        (_one_more, "'extra' matches no clean photo"),
        (_another_size, "noisy_me-0.png is 80x80"),
    ],
)
def test_folders_that_do_not_pair_up(change, message, folders, suite_folder: Path, tmp_path: Path, capsys):
    for folder in folders:
        shutil.copytree(folder, tmp_path / folder.name)
    change(tmp_path)
    given = ["diagnose", tmp_path / "protected", "--clean", tmp_path / "clean", "--suite", suite_folder]
    assert run(*given, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--control", "randomnoise"], "did you mean 'random_noise'"),
        (["--purify", "jpg"], "did you mean 'jpeg'"),
        (["--map", "tsn"], "unknown map 'tsn': did you mean 'tsne'"),
        (["--clip", "nowhere"], "--clip 'nowhere': there is no such folder"),
        (["--class-photos", "nowhere"], "nowhere"),
        (["--clean", ""], "--clean is missing"),
    ],
)
def test_a_mistake_is_one_line(more, message, folders, suite_folder: Path, tmp_path: Path, capsys):
    given = ["diagnose", folders[0], "--clean", folders[1], "--suite", suite_folder, "--out", tmp_path / "out"]
    assert run(*given, "--set", "class_images=0", *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_a_clip_without_text_in_a_suite(folders, suite_folder: Path, tmp_path: Path, capsys):
    shutil.copytree(suite_folder, tmp_path / "suite")
    shutil.rmtree(tmp_path / "suite" / "clip" / "text")
    (tmp_path / "suite" / "manifest.json").unlink()
    given = ["diagnose", folders[0], "--clean", folders[1], "--suite", tmp_path / "suite", "--out", tmp_path / "out"]
    assert run(*given) == 2
    assert "its CLIP has no text tower" in capsys.readouterr().err


def test_a_backbone_that_is_elsewhere(folders, suite: Suite, suite_folder: Path, tmp_path: Path, capsys):
    """CLIP alone can look at photos; what needs the autoencoder is left out and said."""
    shutil.copytree(suite_folder, tmp_path / "suite")
    for part in ("vae", "unet", "text_encoder"):
        shutil.rmtree(tmp_path / "suite" / part)
    spec = (tmp_path / "suite" / "suite.yaml").read_text().replace("backbone: .", "backbone: nobody/nothing")
    (tmp_path / "suite" / "suite.yaml").write_text(spec)
    (tmp_path / "suite" / "manifest.json").unlink()
    given = ["diagnose", folders[0], "--clean", folders[1], "--suite", tmp_path / "suite", "--out", tmp_path / "out"]
    assert run(*given, "--purify", "jpeg", "--class-photos", folders[1]) == 0
    found = json.loads((tmp_path / "out" / "diagnose.json").read_text())
    assert "Nothing is measured after the autoencoder" in found["notes"][0]
    assert {line["score"] for line in found["lines"]} == {"cosine", "class_mass", "shift", "class_distance"}


def test_groups_name_what_they_lack(folders, suite: Suite, monkeypatch: pytest.MonkeyPatch):
    found = pairs(str(folders[0]), str(folders[1]), 64)
    monkeypatch.setattr(suite, "spec", suite.spec.model_copy(update={"restorer": None}))
    monkeypatch.delitem(suite.__dict__, "restorer", raising=False)
    with pytest.raises(UserError, match="it has no restorer"):
        groups(found, [[Choice(name="restore")]], [], Context(suite))
