"""An audit of several subjects: one graph, one table of scores, one report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chromium import DESKTOP, PHONE, Chromium, find
from test_cli import run

from redcloak import stages
from redcloak.audit import Audit
from redcloak.config import AuditConfig
from redcloak.images import save_images, to_tensor
from redcloak.portraits import subject
from redcloak.report.model import read_report
from redcloak.report.table import Table

SUBJECTS = ["drawn:100", "drawn:101", "drawn:102"]
QUICK = [
    "--seeds", "0", "--workers", "1", "--purifiers", "", "--set", "red_team=jpeg", "--protection", "random_noise",
    "--set", "images_per_prompt=2", "--set", "sampling_steps=2", "--set", "class_images=2",
    "--set", "dreambooth.steps=2", "--set", "dreambooth.batch=1", "--set", "metrics=[identity, quality]",
]  # fmt: skip


@pytest.fixture(scope="module")
def suite(suite_folder: Path) -> list[str]:
    return ["--suite", str(suite_folder)]


@pytest.fixture(scope="module")
def audited(suite: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit of three people. Do not change it."""
    out = tmp_path_factory.mktemp("several") / "audit"
    assert run("audit", *SUBJECTS, "--out", out, *suite, *QUICK) == 0
    return out


def test_one_report_tells_of_all_subjects(audited: Path):
    report = read_report(audited / "report.json")
    assert report.subject == "3 subjects"
    assert "over 3 subjects" in report.verdict.scope
    compared = {row.arm: row.comparison for row in report.rows if row.comparison}
    assert list(compared) == ["random_noise", "protected", "red_team", "clean+red_team"]
    assert {found.subjects for found in compared.values()} == {3}
    assert all(0 < found.adjusted <= 1 for found in compared.values())
    assert all(list(row.one_by_one["identity_zero"]) == SUBJECTS for row in report.rows)
    assert {row.pictures("generated") for row in report.rows} == {3 * 2 * 2}
    few = next(flag for flag in report.flags if flag.anchor == "too-few-subjects")
    assert few.message.startswith("3 subjects;")
    assert all(arm.purifier_steps for arm in report.arms if arm.purifiers)


def test_each_subject_has_the_scores_of_an_audit_of_its_own(audited: Path, suite, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stages, "STAGES", {})  # nothing can be computed
    assert run("audit", SUBJECTS[1], "--store", audited / "store", "--out", tmp_path / "one", *suite, *QUICK) == 0
    alone, pooled = (Table.read(folder / "scores.parquet") for folder in (tmp_path / "one", audited))
    assert list(dict.fromkeys(pooled.subject)) == SUBJECTS
    mine = pooled.select(subject=SUBJECTS[1])
    assert len(mine) * 3 == len(pooled)
    assert mine.value.tobytes() == alone.value.tobytes()
    assert pooled.select(subject=SUBJECTS[0]).value.tobytes() != alone.value.tobytes()


def test_what_it_wrote_makes_it_again_without_computing(audited: Path, capsys, monkeypatch):
    written = (audited / "audit.yaml").read_bytes(), read_report(audited / "report.json").rows
    monkeypatch.setattr(stages, "STAGES", {})
    assert run("audit", "--config", audited / "audit.yaml", "--out", audited, "--plan") == 0
    assert "Nothing is left to run." in capsys.readouterr().out
    assert run("audit", "--config", audited / "audit.yaml", "--out", audited) == 0
    again = (audited / "audit.yaml").read_bytes(), read_report(audited / "report.json").rows
    assert list(map(str, again)) == list(map(str, written))


def test_the_plan_counts_every_subject(suite, tmp_path: Path, capsys):
    totals = []
    for people in (SUBJECTS[:1], SUBJECTS):
        assert run("audit", *people, "--out", tmp_path / "out", "--plan", "--json", *suite, *QUICK) == 0
        totals.append({row["stage"]: row["total"] for row in json.loads(capsys.readouterr().out)["rows"]})
    one, three = totals
    assert three["personalize"] == 3 * one["personalize"]
    assert three["class_images"] == one["class_images"] == 1
    assert three["generate"] == 3 * one["generate"]  # the untuned model, too: luck of its own for each subject


@pytest.mark.skipif(find() is None, reason="no Chromium here; .ci/run installs one")
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_shows_subject_by_subject_and_fits(audited: Path, size: tuple[int, int]):
    with Chromium() as browser:
        visit = browser.visit(audited / "report.html", size)
    visit.check()
    assert "Subject by subject" in visit.text
    assert "Wilcoxon" in visit.text
    assert "Of one of the subjects: drawn:100." in visit.text
    assert "There was one subject" not in visit.text


def test_purifiers_that_differ_in_their_settings_are_arms_of_their_own(suite, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = AuditConfig(photos="drawn:0", suite=suite[1], purifiers=("jpeg", {"name": "jpeg", "quality": 9}, "tvm"))
    arms = Audit.prepare(config, tmp_path / "out").arms
    assert [arm.summary.name for arm in arms if arm.summary.name.startswith("protected+")] == [
        "protected+jpeg", "protected+jpeg(quality=9)", "protected+tvm"
    ]  # fmt: skip
    assert run("audit", "drawn:0", "--out", "no", *suite, "--purifiers", "jpeg;jpeg") == 2
    assert "purifiers: 'jpeg' stands twice" in capsys.readouterr().err


def test_a_budget_among_the_settings_of_a_protection_is_refused(suite, capsys):
    assert run("audit", "drawn:0", "--out", "no", *suite, "--set", "aspl.budget=4") == 2
    assert "protection aspl(budget=4): its budget is not a setting here" in capsys.readouterr().err


def test_folders_of_one_name_are_told_apart_by_their_paths(suite_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, folder in enumerate(("a/me", "b/me", "you")):
        save_images(tmp_path / folder, to_tensor(subject(number, shots=3)))
    config = AuditConfig(photos=("a/me", "b/me", "./you"), suite=str(suite_folder), protection="none", class_images=0)
    assert list(Audit.prepare(config, tmp_path / "out").arms_of) == ["a/me", "b/me", "you"]
