"""Red flags of a matrix: which arms they speak of, in memory, on the board and in the results that others read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import pandas
import pytest
from test_bench_board import DOCS, LEFT, SUBJECTS, crowd, matrix, ranked, results

from redcloak.bench.grid import Matrix
from redcloak.bench.results import Results, Score

__all__ = ["crowd", "matrix"]


def flagged(matrix: Matrix, change=lambda row: row) -> tuple[Results, dict[tuple[str, str, str], set[str]]]:
    """The flags of every arm where scores are changed."""
    scores = results(matrix)
    scores.rows = [change(row) for row in scores.rows]
    ranked(matrix, scores)
    teams = {(cell.protection, cell.purifier, cell.decoupling): cell for cell in scores.cells}
    return scores, {name: set(scores.flags.get(cell, ())) for name, cell in teams.items()}


def faceless(*arms: tuple[str, str, str]):
    """No face is found in the pictures of these arms."""

    def change(row: Score) -> Score:
        hit = row.metric == "face_found" and (row.axes.protection, row.axes.purifier, row.axes.decoupling) in arms
        return row._replace(value=0.0) if hit else row

    return change


def test_flags_go_to_the_arms_they_speak_of(matrix):
    _, of = flagged(matrix)
    assert "random-noise-as-harmful" not in of["advdm", "none", "plain"]
    assert "too-few-images" not in of["advdm", "none", "plain"]
    assert "white-box" in of["aspl", "jpeg", "cdl"]
    assert not any("two-people" in flags for flags in of.values())

    def harmful(row: Score) -> Score:
        noise = row.axes.protection == "random_noise" and row.metric == "identity_zero"
        return row._replace(value=0.15) if noise else row

    _, of = flagged(matrix, harmful)  # noise takes less than advdm, and more than aspl
    assert "random-noise-as-harmful" not in of["advdm", "none", "plain"]
    assert "random-noise-as-harmful" in of["aspl", "none", "plain"]
    _, of = flagged(replace(matrix, strangers={"s1": "b.png seems to show someone else than the rest."}))
    assert all("two-people" in flags for flags in of.values())


def test_a_flag_that_names_several_arms_goes_to_each_of_them_and_to_no_other(matrix):
    arms = {
        ("advdm", "none", "plain"),
        ("advdm", "jpeg", "cdl"),
        ("clean", "jpeg", "plain"),
        ("random_noise", "none", "plain"),
    }
    _, of = flagged(matrix, faceless(*arms))
    said = {arm for arm, flags in of.items() if "no-face" in flags}
    undone = {(name, "jpeg", "plain") for name in ("advdm", "aspl", "pid")}  # as the cure does it to clean photos
    assert said == arms | undone
    _, of = flagged(matrix, faceless(("clean", "none", "plain")))
    assert all("no-face" in flags for flags in of.values())  # clean photos are what everything is compared with


def test_critical_flags_are_told_from_others(matrix):
    scores = results(matrix)
    scores.rows = [faceless(("clean", "none", "plain"))(row) for row in scores.rows]
    (row, *_) = ranked(matrix, scores).standings
    assert all(cell.critical == ("no-face",) for cell in row.cells)
    assert "white-box" in row.strongest.flags


def test_photos_have_the_flags_of_what_was_trained_on_them(matrix, tmp_path):
    scores, _ = flagged(matrix, faceless(("aspl", "jpeg", "cdl")))
    photo = next(row for row in scores.rows if row.axes.protection == "aspl" and row.axes.purifier == "jpeg")
    axes = photo.axes._replace(trainer="none", decoupling="plain", prompts="none")
    scores.rows += [Score(a, "photos", "", "x.png", "linf", 3.0, "k") for a in (axes, axes._replace(purifier="none"))]
    table = pandas.read_parquet(scores.write(tmp_path / "results.parquet"))
    jpeg, untreated = table[table.source == "photos"].red_flags.astype(str)
    assert "no-face" in jpeg
    assert "no-face" not in untreated
    assert "white-box" in untreated
    assert Results.read(tmp_path / "results.parquet").flags.keys() == scores.flags.keys() | set(scores.cells)


def recipe(language: str, path: Path) -> str:
    """The recipe of the docs, of another file."""
    text = (DOCS / "bench.md").read_text()
    block = text.split(f"```{language}\n", 1)[1].split("```")[0]
    assert "bench-quick/results.parquet" in block
    return block.replace("bench-quick/results.parquet", str(path))


@pytest.fixture
def written(matrix, tmp_path) -> Path:
    """Results in which advdm's models draw nobody after jpeg."""
    scores, _ = flagged(matrix, faceless(("advdm", "jpeg", "plain")))
    return scores.write(tmp_path / "results.parquet")


def test_the_recipe_for_pandas_does_what_it_says(written, capsys):
    exec(recipe("python", written), names := {})
    told = capsys.readouterr().out
    assert told.count("\naspl") == 1
    assert " ".join(told.split()[1 : SUBJECTS + 1]).startswith("s0")
    found = names["by_subject"]["advdm", "none", "plain", "s0"]
    assert found == pytest.approx(LEFT["advdm"][0], abs=0.02)
    assert ("advdm", "jpeg", "plain", "s0") not in names["by_subject"].dropna().index


def test_the_recipe_for_duckdb_does_what_it_says(written):
    means, best, *_ = recipe("sql", written).split(";")
    rows = {row[:3]: row[3:] for row in duckdb.sql(means).fetchall()}
    assert rows["aspl", "jpeg", "cdl"] == (pytest.approx(0.4, abs=0.01), SUBJECTS * 2 * 4)
    assert ("advdm", "jpeg", "plain") not in rows
    assert ("advdm", "none", "plain") in rows
    pictures = duckdb.sql(best).fetchall()
    assert len(pictures) == 10
    assert [row[-1] for row in pictures] == sorted((row[-1] for row in pictures), reverse=True)
