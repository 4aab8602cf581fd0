"""A small matrix from its YAML to the page, on random weights; what fails, what is shared, what is taken care of."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import yaml
from test_bench_plan import people
from test_cli import run

from redcloak import stages
from redcloak.bench import run as bench_run
from redcloak.bench.config import load
from redcloak.bench.facts import Facts
from redcloak.bench.folder import only_driver
from redcloak.bench.grid import Matrix
from redcloak.errors import UserError
from redcloak.runtime.places import open_store
from redcloak.runtime.store import Store

__all__ = ["people"]

SMALL = {
    "protocol": "small",
    "title": "Random weights",
    "protections": [{"name": "photoguard", "steps": 2}],
    "purifiers": ["none", "jpeg"],
    "trainers": [{"name": "dreambooth", "steps": 1, "batch": 1, "label": "dreambooth"}],
    "seeds": [0],
    "baselines": "plain",
    "prompts": ["a photo of {subject}"],
    "metrics": ["identity", "quality"],
    "images_per_prompt": 2,
    "sampling_steps": 2,
    "class_images": 2,
    "workers": 1,
}
ARMS = 2 * 7  # of each person: untuned, clean, noise, and four red teams against the protection


def write(folder: Path, people: list[str], suite_folder: Path, **changes: object) -> Path:
    path = folder / "m.yaml"
    path.write_text(yaml.safe_dump({"subjects": people, "suite": str(suite_folder)} | SMALL | changes))
    return path


@pytest.fixture(scope="module")
def finished(people, suite_folder, tmp_path_factory) -> Path:
    """A finished run. Do not change it: copy it."""
    folder = tmp_path_factory.mktemp("bench")
    assert run("bench", "run", write(folder, people, suite_folder), "--out", folder / "run") == 0
    return folder


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The stages that run in this process from now on."""
    seen: list[str] = []

    def counted(name, function):
        def stage(*args):
            seen.append(name)
            return function(*args)

        return stage

    for name, function in stages.STAGES.items():
        monkeypatch.setitem(stages.STAGES, name, counted(name, function))
    return seen


def again(folder: Path, *more: object, verb: str = "run") -> int:
    return run("bench", verb, folder / "m.yaml", "--out", folder / "run", *more)


def test_the_same_command_computes_nothing_and_says_the_same(copy, computed, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in (copy / "run").glob("*.*")}
    assert again(copy) == 0
    told = capsys.readouterr().out
    assert computed == []
    after = {path.name: path.stat().st_mtime_ns for path in (copy / "run").glob("*.*")}
    assert {name for name in after if after[name] != before[name]} == {"matrix.yaml"}
    assert f"small v1: {ARMS} of {ARMS} arms." in told
    assert "photoguard(steps=2)" in told
    assert told.rstrip().endswith("leaderboard.html")
    assert run("bench", "plan", copy / "m.yaml", "--out", copy / "run") == 0
    assert "Nothing is left to run" in capsys.readouterr().out


def test_what_has_two_labels_is_made_once_and_told_of_under_both(copy, people, suite_folder, computed):
    twins = ["none", "jpeg", {"name": "jpeg", "label": "twin"}]
    write(copy, people, suite_folder, purifiers=twins)
    assert again(copy) == 0
    assert computed == []
    table = pandas.read_parquet(copy / "run" / "results.parquet")
    photos = table[(table.source == "photos") & (table.protection == "photoguard(steps=2)")]
    one, other = (photos[photos.purifier == label].drop(columns="purifier") for label in ("jpeg", "twin"))
    assert len(one) > 0
    pandas.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True))
    facts = Facts.of(Matrix.of(load(copy / "m.yaml")).arms, Store(copy / "run" / "store"))
    assert {place: len(each) for place, each in facts.seconds.items()} == {
        ("photoguard(steps=2)", "11"): len(people),
        ("random_noise", "11"): len(people),
    }
    assert facts.changes["photoguard(steps=2)", "11", "jpeg"] == facts.changes["photoguard(steps=2)", "11", "twin"] > 0


def test_the_resolved_matrix_is_the_same_run(copy, computed, capsys):
    assert run("bench", "run", copy / "run" / "matrix.yaml", "--out", copy / "run", "--json") == 0
    assert computed == []
    assert json.loads(capsys.readouterr().out)["arms_finished"] == ARMS


def test_what_force_made_otherwise_is_another_board(copy, monkeypatch):
    """Keys stay the same where another library or driver computes something else."""
    before = pandas.read_parquet(copy / "run" / "results.parquet")
    score = stages.STAGES["score"]

    def otherwise(config, inputs, out, *rest):
        notes = score(config, inputs, out, *rest)
        rows = json.loads((out / "scores.json").read_text())
        (out / "scores.json").write_text(json.dumps([[*names, value and value + 1] for *names, value in rows]))
        return notes

    monkeypatch.setitem(stages.STAGES, "score", otherwise)
    assert again(copy, "--overwrite", "force") == 0
    after = pandas.read_parquet(copy / "run" / "results.parquet")
    assert list(after.key) == list(before.key)
    assert (after.value[before.value > 0] == before.value[before.value > 0] + 1).all()


def test_a_board_of_an_older_format_is_written_anew(copy):
    path = copy / "run" / "board.json"
    path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 1'))
    assert again(copy) == 0
    assert json.loads(path.read_text())["schema_version"] == 2


def test_every_score_is_a_row_with_every_axis(finished):
    table = pandas.read_parquet(finished / "run" / "results.parquet")
    drawn = table[table.source == "generated"]
    assert len(drawn) == ARMS * 2 * drawn.metric.nunique()
    assert set(drawn.protection) == {"untuned", "clean", "random_noise", "photoguard(steps=2)"}
    assert set(drawn.decoupling) == {"plain", "cdl"}
    assert set(drawn.purifier) == {"none", "jpeg"}
    assert set(drawn[drawn.protection == "random_noise"].budget) == {11.0}
    assert drawn[drawn.protection == "clean"].budget.isna().all()
    assert set(drawn.prompt) == {"a photo of sks person"}
    store = Store(finished / "run" / "store")
    for key, rows in table.groupby("key", observed=True):
        scores = json.loads((store.find(key).path / "scores.json").read_text())
        expected = sorted((image, metric) for _, image, metric, _ in scores)
        assert sorted(zip(rows.image, rows.metric, strict=True)) == expected
    assert {"linf", "psnr"} <= set(table[table.source == "photos"].metric)
    assert "clean-did-not-learn" in " ".join(drawn.red_flags.astype(str))  # random weights learn nobody
    assert (table.protocol == "small").all()


def test_the_page_is_whole_and_opens_every_cell(finished):
    page = (finished / "run" / "leaderboard.html").read_text()
    assert not re.search(r"""(src|href)="(?!data:)""", page)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in page
    opened, there = (
        set(re.findall(r'popovertarget="(\w+-\d+)"', page)),
        set(re.findall(r'popover id="(\w+-\d+)"', page)),
    )
    assert opened == there
    assert len(there) == 6
    assert page.count("data:image/webp") >= 6 * 2
    assert "protection=photoguard(steps=2),budget=11,purifier=jpeg" in page.replace("&#39;", "'")
    assert "small v1" in page
    assert len(page) < 1_000_000


def test_the_command_of_a_cell_makes_it_from_the_same_store(finished, tmp_path, computed, monkeypatch, capsys):
    from redcloak.bench.board import read_board
    from redcloak.bench.page import command

    board = read_board(finished / "run")
    row = board.standings[0]
    words = command(row, row.cells[-1], tmp_path / "x", str(finished / "run" / "store"))
    shutil.copytree(finished / "run", tmp_path / "x", ignore=shutil.ignore_patterns("store"))
    monkeypatch.chdir(tmp_path)
    assert run(*shlex.split(words)[1:], "--json") == 0
    assert computed == []
    made = json.loads(capsys.readouterr().out)
    assert [cell["label"] for cell in made["standings"][0]["cells"]] == ["nothing", row.cells[-1].label]


def broken(*_: object) -> dict[str, object]:
    raise RuntimeError("the compressor is on fire")


def test_what_fails_stops_nobody_else_is_kept_and_is_tried_again(people, suite_folder, tmp_path, monkeypatch, capsys):
    write(tmp_path, people[:1], suite_folder)
    with monkeypatch.context() as patch:
        patch.setitem(stages.STAGES, "purify", broken)
        assert again(tmp_path) == 1
    told = capsys.readouterr().out
    assert "failed: purify: jpeg" in told
    assert "5 of 7 arms" in told
    (failed,) = Store(tmp_path / "run" / "store").failures.all()
    assert failed.reason == "RuntimeError: the compressor is on fire"
    assert "in broken" in failed.trace
    assert "compressor" in (tmp_path / "run" / "leaderboard.html").read_text()
    assert again(tmp_path, "--json", verb="plan") == 0
    rows = {row["stage"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert (rows["purify"]["failed"], rows["purify"]["missing"], rows["protect"]["missing"]) == (1, 1, 0)
    assert run("bench", "why", tmp_path / "m.yaml", failed.key[:8], "--out", tmp_path / "run") == 0
    assert "it failed: RuntimeError: the compressor" in capsys.readouterr().out
    assert again(tmp_path, "--overwrite", "retry") == 0
    assert "7 of 7 arms" in capsys.readouterr().out
    assert list(Store(tmp_path / "run" / "store").failures.all()) == []


def test_nobody_is_left_over_where_all_fail(people, suite_folder, tmp_path, monkeypatch, capsys):
    write(tmp_path, people[:1], suite_folder)
    monkeypatch.setitem(stages.STAGES, "photos", broken)
    assert again(tmp_path) == 2
    told = capsys.readouterr().err.splitlines()
    first = re.search(r"no arm of small v1 is finished, 2 stages failed; first (.*)", told[-1])[1]
    assert re.fullmatch(r"\w+ photos, .*: RuntimeError: the compressor is on fire", first)
    assert sum(line.endswith(": failed: RuntimeError: the compressor is on fire") for line in told) == 2
    assert {each.attempts for each in Store(tmp_path / "run" / "store").failures.all()} == {1}
    assert again(tmp_path) == 2
    assert {each.attempts for each in Store(tmp_path / "run" / "store").failures.all()} == {2}


def test_force_deletes_nothing_before_it_can_start(copy, people, suite_folder, computed, capsys):
    store = Store(copy / "run" / "store")
    before = store.keys()
    force = ("--overwrite", "force")
    assert again(copy, *force, "--executor", "rai") == 2
    assert "unknown executor 'rai'" in capsys.readouterr().err
    with store.lease("0" * 64):
        assert again(copy, *force) == 2
    assert "a run is at work there" in capsys.readouterr().err
    write(copy, people, suite_folder, prompts=["a photo of {subject}" + " with a hat" * 40])
    assert again(copy, *force) == 2
    assert "shorten it" in capsys.readouterr().err
    assert store.keys() == before
    assert computed == []


def test_a_failure_that_is_mended_is_none(copy, capsys):
    """A kill between publishing and striking out, or another machine, leaves one behind."""
    store = Store(copy / "run" / "store")
    key = next(iter(store.keys()))
    store.failures.record(key, "purify", "purify: jpeg", "it broke", "")
    assert again(copy, "--json") == 0
    assert json.loads(capsys.readouterr().out)["failures"] == []
    assert again(copy, "--json", verb="gc") == 0
    assert json.loads(capsys.readouterr().out)["failures"] == 1
    assert again(copy, "--delete", verb="gc") == 0
    assert list(store.failures.all()) == []


def test_another_title_or_matrix_is_another_board(copy, people, suite_folder, computed, capsys):
    write(copy, people, suite_folder, title="Another title")
    assert again(copy) == 0
    assert "Another title" in (copy / "run" / "leaderboard.html").read_text()
    write(copy, people, suite_folder, title="Another title", seeds=[0, 1])
    capsys.readouterr()
    assert again(copy, "--overwrite", "read-only", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["seeds"], told["arms_finished"]) == (2, ARMS)
    assert told["arms"] > ARMS
    assert computed == []


def test_photos_that_changed_since_the_plan_are_not_published(people, suite_folder, tmp_path, monkeypatch):
    shutil.copytree(people[0], tmp_path / "ann")
    monkeypatch.chdir(tmp_path)
    config = load(str(write(tmp_path, ["ann"], suite_folder)))
    nodes = {node.label: node for node in Matrix.of(config).graph.order()}
    node = nodes["train photos, ann"]
    assert node.transport["photos"] == str(tmp_path / "ann")  # workers may have another working directory
    stages.photos(node.config, {}, tmp_path / "same", node.transport, lambda *values: None)
    mine, other = (min(Path(folder).iterdir()) for folder in (tmp_path / "ann", people[1]))
    shutil.copy(other, mine)
    with pytest.raises(UserError, match=r"/ann': not what was planned: they were changed since") as told:
        stages.photos(node.config, {}, tmp_path / "other", node.transport, lambda *values: None)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "other").exists()


def test_who_only_looks_needs_no_folder_to_write_in(copy, people, suite_folder, capsys):
    (copy / "run" / "photos.json").unlink()
    (copy / "run" / "photos.json").mkdir()  # nothing can be put there
    assert again(copy, verb="plan") == again(copy, verb="report") == again(copy, verb="gc") == 0
    write(copy, people[:1], suite_folder)
    assert "hit" in why(copy, "protect: photoguard", capsys)


def test_a_driver_that_can_write_nothing_is_told_in_one_line(tmp_path, no_room):
    with (
        no_room(),
        pytest.raises(UserError, match=r"^--out .*: File too large; free some space"),
        only_driver(tmp_path),
    ):
        raise AssertionError
    with only_driver(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".driver"]


def test_a_prompt_whose_end_would_be_cut_off_is_refused_before_work(people, suite_folder, tmp_path, capsys):
    write(tmp_path, people[:1], suite_folder, prompts=["a photo of {subject}" + " with a hat" * 40])
    assert again(tmp_path) == 2
    assert "shorten it" in capsys.readouterr().err
    assert list(Store(tmp_path / "run" / "store").manifests()) == []


def test_words_for_what_is_there(copy, people, suite_folder, computed, capsys):
    assert again(copy, "--overwrite", "read-only") == 0
    assert computed == []
    assert again(copy, "--overwrite", "retry") == 0
    assert computed == []
    write(copy, people[:1], suite_folder)
    assert again(copy, "--overwrite", "force", "--only", "purifier=none,decoupling=plain") == 0
    assert computed.count("personalize") == 3  # the other arms, and the other person, are left alone
    assert "purify" not in computed
    capsys.readouterr()
    assert again(copy, "--overwrite", "forse") == 2
    assert "did you mean 'force'" in capsys.readouterr().err
    assert run("bench", "run", copy / "m.yaml", "--out", copy / "new", "--overwrite", "read-only") == 2
    assert "there is none; run the matrix first" in capsys.readouterr().err
    assert not (copy / "new").exists()


def test_two_drivers_are_told_in_one_line(copy, capsys):
    with only_driver(copy / "run"):
        assert again(copy) == 2
    told = capsys.readouterr().err
    assert "another `redcloak bench run` is at work there" in told
    assert told.count("\n") == 1
    assert again(copy) == 0


def test_what_writes_the_results_is_alone_in_the_folder(copy, capsys):
    with only_driver(copy / "run"):
        assert again(copy, "--overwrite", "read-only") == 0  # it says that already
        assert again(copy, verb="report") == 2
        (copy / "run" / "leaderboard.html").unlink()
        assert again(copy, "--overwrite", "read-only") == 2
    assert capsys.readouterr().err.count("another `redcloak bench run` is at work there") == 2
    assert not (copy / "run" / "leaderboard.html").exists()
    assert again(copy, "--overwrite", "read-only") == again(copy, verb="report") == 0


def test_nothing_is_deleted_while_the_results_are_written(copy, people, suite_folder, monkeypatch, capsys):
    store, refused = copy / "run" / "store", []

    def slow(*arguments):
        refused.append(run("bench", "gc", copy / "m.yaml", "--store", store, "--out", copy / "other", "--delete"))
        return board(*arguments)

    board = bench_run.board
    monkeypatch.setattr(bench_run, "board", slow)
    write(copy, people, suite_folder, title="Another title")
    assert again(copy) == 0
    assert refused == [2]
    assert "a run is at work there" in capsys.readouterr().err


def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(people, suite_folder, tmp_path, capsys):
    path = write(tmp_path, people[:1], suite_folder, purifiers=["none"])
    command = [sys.executable, "-m", "redcloak", "bench", "run", str(path), "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
        for line in driver.stderr:
            if "protect" in line:
                break
        driver.send_signal(signal.SIGINT)
        told = driver.stderr.read()
    assert driver.returncode == 130
    assert "run the same command again" in told
    assert "Traceback" not in told
    there = sum(1 for _ in Store(tmp_path / "run" / "store").manifests())
    assert there > 0
    assert again(tmp_path) == 0
    assert "5 of 5 arms" in capsys.readouterr().out


def why(folder: Path, name: str, capsys, *more: object) -> str:
    assert again(folder, name, *more, verb="why") == 0
    return capsys.readouterr().out


def test_why_tells_hits_and_the_fields_that_differ(copy, people, suite_folder, capsys):
    assert again(copy, "personalize: clean", verb="why") == 2
    told = capsys.readouterr().err
    assert "names 2 stages; give one of them: 'personalize: clean, seed 0, " in told
    assert told.count("personalize: clean, seed 0") == 2  # each with its subject
    assert again(copy, "persnalize: clean", verb="why") == 2
    assert "did you mean 'personalize: clean, seed 0" in capsys.readouterr().err
    write(copy, people[:1], suite_folder)
    assert "hit, it is in the store" in why(copy, "personalize: clean", capsys)
    changed = [{"name": "photoguard", "steps": 3}]
    write(copy, people[:1], suite_folder, protections=changed)
    told = why(copy, "protect: photoguard", capsys)
    assert "miss; the nearest result is" in told
    assert "method.settings.steps: 2 there, 3 wanted" in told
    told = why(copy, "personalize: photoguard(steps=3)@11 jpeg", capsys)
    assert "input photos, purify: jpeg" in told
    assert "    method.settings.steps: 2 there, 3 wanted" in told
    found = json.loads(why(copy, "protect: photoguard", capsys, "--json"))
    assert found["fields"] == [{"field": "method.settings.steps", "wanted": 3, "there": 2}]


def test_gc_tells_first_and_deletes_what_no_matrix_needs(copy, people, suite_folder, computed, capsys):
    store = copy / "run" / "store"
    write(copy, people, suite_folder, purifiers=["none"])
    before = {manifest.key for manifest in Store(store).manifests()}
    assert again(copy, "--json", verb="gc") == 0
    assert json.loads(capsys.readouterr().out)["stages"] == {}  # the last run there had another purifier
    assert again(copy) == 0
    capsys.readouterr()
    assert again(copy, verb="gc") == 0
    told = capsys.readouterr().out
    assert told.startswith("Would delete (add --delete)")
    assert re.search(r"personalize +4 ", told)  # jpeg with and without decoupling, for two people
    assert {manifest.key for manifest in Store(store).manifests()} == before
    assert again(copy, "--delete", "--json", verb="gc") == 0
    assert json.loads(capsys.readouterr().out)["stages"]["purify"]["artifacts"] == 2
    assert len(before) - sum(1 for _ in Store(store).manifests()) > 10
    assert again(copy) == 0
    assert computed == []
    assert again(copy, "--models", "--delete", verb="gc") == 0
    assert "personalize" not in {manifest.stage for manifest in Store(store).manifests()}
    assert again(copy) == 0
    assert computed == []  # nobody needs a model whose pictures are drawn


def test_gc_keeps_the_subjects_that_are_named_and_those_of_the_last_run(copy, people, suite_folder, capsys):
    def stages_of(*more: object) -> set[str]:
        assert again(copy, "--json", *more, verb="gc") == 0
        return set(json.loads(capsys.readouterr().out)["stages"])

    both = [word for each in people for word in ("--subject", each)]
    write(copy, people[:1], suite_folder)
    assert stages_of() == stages_of(*both) == set()
    last = copy / "run" / "matrix.yaml"
    last.write_text(last.read_text().replace(people[1], str(copy / "moved")))
    assert again(copy, "--delete", verb="gc") == 2
    told = capsys.readouterr().err
    assert f"{last}: nobody can tell what the last run there needs: " in told
    assert "moved" in told
    last.unlink()
    assert "personalize" in stages_of()
    assert stages_of(*both) == set()
    assert run("bench", "gc", "causal", "--subject", people[0]) == 2
    assert "a study has no axes" in capsys.readouterr().err


def test_gc_waits_for_the_runs_of_the_store_and_of_every_matrix(copy, people, suite_folder, capsys, monkeypatch):
    store = Store(copy / "run" / "store")
    before = store.keys()
    write(copy, people[:1], suite_folder)
    with store.lease("0" * 64):
        assert again(copy, verb="gc") == 0
        assert again(copy, "--delete", verb="gc") == 2
    told = capsys.readouterr().err
    assert "a run is at work there" in told
    assert told.count("\n") == 1
    monkeypatch.chdir(copy)
    (copy / "bench-other").mkdir()
    (copy / "other.yaml").write_text((copy / "m.yaml").read_text().replace("protocol: small", "protocol: other"))
    both = ("m.yaml", "other.yaml", "--store", store.root, "--delete")
    with only_driver(copy / "bench-other"):
        assert run("bench", "gc", *both) == 2
    assert "another `redcloak bench run` is at work there" in capsys.readouterr().err
    assert store.keys() == before
    assert run("bench", "gc", *both) == 0
    assert store.keys() < before


def test_a_report_of_what_is_damaged_says_what_mends_it(copy, computed, capsys):
    store = Store(copy / "run" / "store")
    victim = next(m for m in store.manifests() if m.stage == "score")
    (store.path(victim.key) / "scores.json").write_text("[]")
    assert again(copy, verb="report") == 2
    assert "is damaged or gone; `redcloak bench run`" in capsys.readouterr().err
    assert again(copy) == 0
    assert computed == ["score"]
    assert again(copy, verb="report") == 0


def test_verify_finds_a_flipped_bit_and_the_stage_alone_is_made_anew(copy, computed, capsys):
    store = copy / "run" / "store"
    assert run("bench", "verify", store) == 0
    assert ", 0 damaged." in capsys.readouterr().out
    victim = next(m for m in Store(store).manifests() if m.stage == "protect")
    file = next((Store(store).path(victim.key) / "images").iterdir())
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert run("bench", "verify", store) == 1
    assert f"damaged: protect {victim.key[:12]}: images/{file.name}" in capsys.readouterr().out
    assert again(copy) == 0
    assert computed == ["protect"]
    assert run("bench", "verify", store, "--json") == 0
    assert run("bench", "verify", copy / "nowhere") == 2


def test_a_second_look_takes_no_torch_and_little_time(finished):
    command = ["bench", "run", str(finished / "m.yaml"), "--out", str(finished / "run")]
    code = f"import sys; from redcloak.cli import main; main({command!r}); print('torch' in sys.modules)"
    start = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    end = os.times()
    assert done.stdout.endswith("False\n")
    cpu = end.children_user + end.children_system - start.children_user - start.children_system
    assert cpu < 4  # 2 s on a quiet machine; this one may be busy


def test_a_store_elsewhere_is_run_planned_checked_and_cleaned(
    finished, people, suite_folder, tmp_path, capsys, monkeypatch
):
    """A URI in the place of the folder: every verb reads it, and the board is the same."""
    monkeypatch.setenv("REDCLOAK_CACHE", str(tmp_path / "cache"))
    place, matrix, out = f"file://{tmp_path}/there", finished / "m.yaml", tmp_path / "run"
    common = (matrix, "--out", out, "--store", place)
    assert run("bench", "plan", *common) == 0
    assert run("bench", "verify", place) == run("bench", "report", *common) == 2
    assert capsys.readouterr().err.count("there is none; run the matrix first") == 2
    assert not (tmp_path / "there").exists()
    assert run("bench", "run", *common, "--threads", 1) == 0
    told = json.loads((out / "board.json").read_text())
    first = json.loads((finished / "run" / "board.json").read_text())
    assert [row["survives"] for row in told["standings"]] == [row["survives"] for row in first["standings"]]
    assert place in (out / "leaderboard.html").read_text()
    capsys.readouterr()
    assert run("bench", "plan", *common) == 0
    assert "Nothing is left to run" in capsys.readouterr().out
    assert run("bench", "verify", place) == 0
    store = open_store(place, read_only=True)
    models = [each.key for each in store.manifests() if each.stage == "personalize"]
    assert run("bench", "why", matrix, models[0][:12], "--store", place) == 0
    assert "hit" in capsys.readouterr().out
    folder = tmp_path / "there" / "artifacts" / models[0][:2] / models[0][2:4] / models[0]
    next(path for path in folder.iterdir() if path.name != "stage.json").write_bytes(b"other")
    assert run("bench", "verify", place) == 1
    smaller = write(tmp_path, people[:1], suite_folder)
    capsys.readouterr()
    assert run("bench", "gc", smaller, "--store", place, "--delete", "--json") == 0
    assert sum(each["artifacts"] for each in json.loads(capsys.readouterr().out)["stages"].values()) > 0
    assert run("bench", "report", smaller, "--out", tmp_path / "less", "--store", place) == 0
