"""Two runs side by side, on scores whose difference is known."""

from __future__ import annotations

import json
from math import nan

import numpy as np
import pytest
from test_bench_board import GIVEN, crowd, keep, matrix, results
from test_cli import run

from redcloak.bench.compare import changes, compare
from redcloak.bench.config import MatrixConfig
from redcloak.bench.grid import Matrix
from redcloak.bench.results import Results
from redcloak.parsing import validate

__all__ = ["crowd", "matrix"]


def test_two_runs_are_compared_arm_by_arm(matrix, tmp_path, capsys):
    a, b = keep(tmp_path / "a", matrix), keep(tmp_path / "b", matrix, results(matrix, 0.1), sampling_steps=50)
    found = compare(a, b)
    assert found.settings == (("sampling_steps", 25, 50),)
    assert (found.only_a, found.only_b) == ((), ())
    treated = [each for cell, each in found.arms.items() if cell.protection != "untuned"]
    assert all(each.differs and each.difference.estimate == pytest.approx(0.1, abs=1e-9) for each in treated)
    assert all(there - here == pytest.approx(0.1, abs=1e-9) for there, here in (each.means for each in treated))
    (floor,) = (each for cell, each in found.arms.items() if cell.protection == "untuned")
    assert not floor.differs
    assert run("bench", "compare", a, b) == 0
    told = capsys.readouterr().out
    assert "sampling_steps: 25 -> 50" in told
    assert "advdm@11 jpeg + cdl (prompts)" in told
    assert run("bench", "compare", a, b, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["arms"]) == len(found.arms)
    assert run("bench", "compare", a, tmp_path / "nothing") == 2


def noisy(matrix: Matrix, **differ: float) -> Results:
    """Every arm has a new draw, and some protections differ."""
    rng = np.random.default_rng(7)
    rows = results(matrix).rows
    return Results("own", 1, "tiny", [
        row._replace(value=row.value + differ.get(row.axes.protection, 0.0) + rng.normal(0, 0.01)) for row in rows
    ])  # fmt: skip


def test_arms_are_certain_only_where_all_of_them_being_asked_still_leaves_them_so(matrix, tmp_path):
    a, b = keep(tmp_path / "a", matrix), keep(tmp_path / "b", matrix, noisy(matrix, aspl=0.05, pid=0.003))
    found = compare(a, b)
    assert {cell.protection for cell, each in found.arms.items() if each.differs} == {"aspl"}
    clear = {
        cell.protection for cell, each in found.arms.items() if each.difference.low > 0 or each.difference.high < 0
    }
    assert clear >= {"aspl", "pid"}  # as one of 21 intervals may by chance
    assert found.too_few == ""


def test_few_subjects_are_told_that_nothing_can_be_certain(crowd, tmp_path, capsys):
    few = Matrix.of(validate(MatrixConfig, {"subjects": crowd[:6]} | GIVEN, "m"))
    a, b = keep(tmp_path / "a", few), keep(tmp_path / "b", few, results(few, 0.1))
    assert not any(each.differs for each in compare(a, b).arms.values())
    assert run("bench", "compare", a, b) == 0
    assert "21 arms are compared: with fewer than 10 subjects none can be certain." in capsys.readouterr().out


def test_other_photos_under_the_same_name_are_told(matrix, tmp_path):
    a, b = keep(tmp_path / "a", matrix), keep(tmp_path / "b", matrix)
    board = json.loads((b / "board.json").read_text())
    who = next(iter(board["photos"]))
    board["photos"][who] = "0" * 64
    (b / "board.json").write_text(json.dumps(board))
    ((field, _, there),) = compare(a, b).settings
    assert (field, there) == (f"photos of {who}", "0" * 12)


def test_a_seed_that_one_run_lacks_counts_in_neither_mean(matrix, tmp_path):
    whole = results(matrix)
    whole.rows = [row._replace(value=row.value + int(row.axes.seed)) for row in whole.rows]
    kept = [row for row in whole.rows if row.axes.seed == "0" or row.axes.protection != "pid"]
    half = Results("own", 1, "tiny", kept)
    found = compare(keep(tmp_path / "a", matrix, whole), keep(tmp_path / "b", matrix, half))
    pid = [each for cell, each in found.arms.items() if cell.protection == "pid"]
    assert pid
    assert all(each.means[0] == each.means[1] and each.difference.estimate == 0 for each in pid)


def test_what_is_not_a_number_is_null_and_an_unknown_score_one_line(matrix, tmp_path, capsys):
    scores = results(matrix)
    scores.rows = [
        row._replace(value=nan) if (row.metric, row.axes.protection) == ("face_found", "pid") else row
        for row in scores.rows
    ]
    a = keep(tmp_path / "a", matrix, scores)
    assert run("bench", "compare", a, a, "--metric", "face_found", "--json") == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    pid = [each for each in arms if each["arm"]["protection"] == "pid"]
    assert {(each["a"], each["p"], each["change"]["estimate"]) for each in pid} == {(None, None, None)}
    assert {each["a"] for each in arms if each["arm"]["protection"] == "aspl"} == {1.0}
    assert run("bench", "compare", a, a, "--metric", "identity_zeroo", "--json") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "'identity_zeroo': no score of both runs; there are identity_zero, face_found." in told


def test_changes_match_what_has_a_label_by_it():
    a = {"protections": [{"label": "aspl", "chain": [{"steps": 1}]}, {"label": "pid"}], "seeds": [0, 1], "old": 1}
    b = {"protections": [{"label": "mist"}, {"label": "aspl", "chain": [{"steps": 2}]}], "seeds": [0], "new": 1.0}
    assert list(changes(a, b)) == [
        ("protections[aspl].chain[0].steps", 1, 2),
        ("protections[pid]", "there", None),
        ("protections[mist]", None, "there"),
        ("seeds", [0, 1], [0]),
        ("old", 1, None),
        ("new", None, 1.0),
    ]
    assert list(changes({"steps": 1}, {"steps": 1.0})) == [("steps", 1, 1.0)]  # keys tell them apart, too
