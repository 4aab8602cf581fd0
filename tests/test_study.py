"""The causal study from its YAML to its page: interventions are made and verified, models trained, verdicts written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from chromium import DESKTOP, PHONE, Chromium, find
from test_cli import run

from redcloak import stages
from redcloak.backbone import Backbone
from redcloak.bench.config import names
from redcloak.diagnose.study import StudyConfig, arms_of, builders, load, perturbations
from redcloak.diagnose.study_run import Study
from redcloak.errors import UserError

SMALL = {
    "extends": "causal",
    "subjects": ["drawn:100"],
    "seeds": [0],
    "steps": 1,
    "ascent": 2,
    "images_per_prompt": 1,
    "sampling_steps": 2,
    "class_images": 2,
    "workers": 1,
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished study. Do not change it."""
    folder = tmp_path_factory.mktemp("study")
    assert run("bench", "run", write(folder), "--out", folder / "run") == 0
    return folder


def test_the_shipped_study_is_what_the_issue_asks():
    config = load("causal")
    assert (config.study, len(config.subjects), len(config.seeds)) == ("causal", 12, 2)
    assert "causal" in names()
    assert StudyConfig.model_validate(yaml.safe_load(config.text())) == config


@pytest.mark.parametrize("base", ["advdm", "aspl", "pid", "photoguard"])
def test_any_protection_may_be_taken_apart(base):
    config = load("causal", subjects=("drawn:100",), base=base)
    builder = builders(config)["drawn:100"]
    made = {name: builder.protect(choice) for name, choice in perturbations(config).items()}
    assert len({node.key for node in made.values()}) == len(made)
    assert made["base"].config["method"]["name"] == base


def test_every_arm_has_its_controls_and_shares_their_stages():
    config = load("causal", subjects=("drawn:100",), seeds=(0,))
    builder = builders(config)["drawn:100"]
    arms = {arm.summary.name: arm for arm in arms_of(builder, perturbations(config))}
    assert {"clean", "base", "half", "matched_noise", "shuffled", "transplant", "words", "swap_identifier"} < set(arms)
    assert {f"clean{a}{b}{c}" for a in ("", "+codesr") for b in ("", "+cdl") for c in ("", "+negative")} < set(arms)
    assert arms["words"].photos is arms["base"].photos
    assert arms["words"].models != arms["base"].models
    trained = {node.key for arm in arms.values() for node in arm.models if node.stage == "personalize"}
    drawn = {node.key for arm in arms.values() for _, node in arm.generated}
    assert len(drawn) == len(arms)
    assert len(trained) < len(arms)  # what differs only in sampling, and what is swapped, is not trained again


def same(here: dict[str, torch.Tensor], there: dict[str, torch.Tensor]) -> bool:
    return here.keys() == there.keys() and all(torch.equal(value, there[name]) for name, value in here.items())


@pytest.mark.parametrize("part", ["identifier", "text_encoder"])
def test_a_swap_takes_the_donors_words_and_nothing_else(finished, part):
    study = Study.prepare(load(str(finished / "study.yaml")), finished / "run", read_only=True)
    arms = {arm.summary.name: arm for group in study.arms().values() for arm in group}
    mine, base, clean = (
        Backbone.load(study.store.read(arms[name].models[0].key, name).path / "model")
        for name in (f"swap_{part}", "base", "clean")
    )
    assert same(mine.unet.state_dict(), base.unet.state_dict())
    wanted, given = base.text_encoder.state_dict(), clean.text_encoder.state_dict()
    if part == "text_encoder":
        wanted = given
    else:
        table = next(name for name in wanted if "token_embedding" in name)
        [token] = mine.tokenizer("sks", add_special_tokens=False).input_ids
        wanted[table][token] = given[table][token]
    assert same(mine.text_encoder.state_dict(), wanted)
    apart = study.store.read(arms[f"swap_{part}"].models[0].key, "swap").manifest.notes["apart"]
    assert 0 < apart < 1


def test_a_study_verifies_trains_and_judges(finished):
    found = json.loads((finished / "run" / "causal.json").read_text(), parse_constant=pytest.fail)
    verified = {row["photos"]: row for row in found["verified"]}
    assert set(verified) == {"clean", *perturbations(load("causal"))}
    assert verified["base"]["linf"] == "11.000 (11.000)"  # the mean, and the largest of a photo
    assert verified["half"]["linf"] == "5.000 (5.000)"
    assert verified["clean"]["latent_shift"] == "0.000 (0.000)"
    assert verified["base"]["spectrum"] == "0.000 (0.000)"
    assert (
        float(verified["matched_noise"]["spectrum"].split()[0]) < 0.25 < float(verified["clean"]["spectrum"].split()[0])
    )
    claims = {each["claim"] for each in found["verdicts"]}
    assert claims == {"1", "2a", "2b", "2c", "3a", "3b", "4a", "4b", "4c", "5a", "5b", "5c", "5d", "6", "7a", "7b"}
    assert {each["answer"] for each in found["verdicts"]} == {"undecided"}  # one person decides nothing
    assert {"study.yaml", "scores.parquet", "causal.html", "effects.svg", "dose.svg"} <= {
        path.name for path in (finished / "run").iterdir()
    }


def test_the_same_command_computes_nothing(finished, capsys, monkeypatch):
    before = (finished / "run" / "causal.json").read_bytes()
    assert run("bench", "plan", finished / "study.yaml", "--out", finished / "run") == 0
    told = capsys.readouterr().out
    assert "causal v2" in told
    assert "Nothing is left to run." in told
    monkeypatch.setattr(stages, "STAGES", {})
    assert run("bench", "run", finished / "study.yaml", "--out", finished / "run") == 0
    told = capsys.readouterr().out
    assert "causal v2: 1 subject, 1 seed, advdm at 11/255" in told
    assert "Re-aligning the photo alone undoes damage" in told
    assert "nearest words" in told
    assert (finished / "run" / "causal.json").read_bytes() == before
    assert run("bench", "gc", finished / "study.yaml", "--out", finished / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["stages"] == {}  # it needs all that it made


def test_photos_alone_need_no_training(tmp_path, capsys):
    path = write(tmp_path, learn=False)
    assert run("bench", "run", path, "--out", tmp_path / "run") == 0
    assert "nearest words" in capsys.readouterr().out
    kept = Study.prepare(load(str(path)), tmp_path / "run", read_only=True).store.manifests()
    assert {each.stage for each in kept} <= {"photos", "class_images", "protect"}
    assert "Verdicts" not in (tmp_path / "run" / "causal.html").read_text()


def test_planning_makes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("bench", "plan", "causal", "--json") == 0
    rows = {row["stage"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["personalize"]["missing"] == 12 * 2 * 25
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find() is None, reason="no Chromium here; CI installs one")
def test_the_page_is_whole_on_a_desk_and_on_a_phone(finished):
    with Chromium() as browser:
        for size in (DESKTOP, PHONE):
            visit = browser.visit(finished / "run" / "causal.html", size)
            visit.check()
            assert "What was done to the photos" in visit.text


def test_bad_words_end_in_one_line(tmp_path, capsys):
    for words, message in (
        (("run", write(tmp_path, margins={"damage": -1})), "margins.damage"),
        (("run", "causal", "--only", "seed=0"), "a study has no axes"),
        (("run", "causal", "--overwrite", "force"), "a study only makes what is missing"),
        (("report", "causal"), "it is a study, not a matrix"),
    ):
        assert run("bench", *words, "--out", tmp_path / "x") == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="subjects"):
        load(str(write(tmp_path, subjects=[])))
    with pytest.raises(UserError, match="'drawn:1' has the same photos as 'drawn:1'"):
        builders(load("causal", subjects=("drawn:1", "drawn:1")))


def test_a_suite_that_cannot_look_is_refused_before_work(tmp_path, suite_folder, capsys):
    words = (suite_folder / "suite.yaml").read_text()
    (tmp_path / "suite").mkdir()
    for path in suite_folder.iterdir():
        if path.name != "suite.yaml":
            (tmp_path / "suite" / path.name).symlink_to(path)
    kept = "\n".join(line for line in words.splitlines() if not line.startswith("clip:"))
    (tmp_path / "suite" / "suite.yaml").write_text(kept)
    path = write(tmp_path, suite=str(tmp_path / "suite"))
    assert run("bench", "run", path, "--out", tmp_path / "run") == 2
    assert "it has no clip" in capsys.readouterr().err
    assert not (tmp_path / "run" / "store" / "artifacts").exists()
