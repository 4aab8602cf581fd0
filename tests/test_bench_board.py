"""The leaderboard, claims and comparisons, on scores whose right answer is known."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from math import isnan
from pathlib import Path

import numpy as np
import pandas
import pytest
from test_cli import run

from redcloak.bench import claims
from redcloak.bench.board import Board, read_board
from redcloak.bench.compare import changes, compare
from redcloak.bench.config import MatrixConfig
from redcloak.bench.grid import Arm, Matrix
from redcloak.bench.page import bar, command, headline, page, signed
from redcloak.bench.ranking import board
from redcloak.bench.results import Cell, Results, Score
from redcloak.cli.bench import filters
from redcloak.cli.bench_words import standings
from redcloak.config import validate
from redcloak.errors import UserError
from redcloak.images import save_images, to_tensor
from redcloak.report.table import write_whole
from redcloak.stats import Estimate, paired_difference
from redcloak.store import Store

DOCS = Path(__file__).parents[1] / "docs"
CLEAN, FLOOR = 0.6, 0.05
# Identity that the red team is left with: protection -> (nothing, jpeg, cdl, jpeg and cdl).
LEFT = {
    "clean": (0.60, 0.58, 0.59, 0.57),
    "random_noise": (0.58, 0.58, 0.57, 0.56),
    "advdm": (0.10, 0.30, 0.20, 0.25),  # strong against nothing at all, weak against jpeg
    "aspl": (0.20, 0.22, 0.24, 0.40),
    "pid": (0.55, 0.30, 0.30, 0.30),  # against it, doing nothing is best
}
SUBJECTS = 10  # fewer, and none of 21 arms could differ for certain


def score(arm: Arm, rng: np.random.Generator, shift: float = 0.0) -> list[Score]:
    axes = arm.axes
    team = (axes.purifier == "jpeg") + 2 * (axes.decoupling == "cdl")
    level = FLOOR if axes.protection == "untuned" else LEFT[axes.protection][team] + shift
    values = level + rng.normal(0, 0.01, 4)
    return [
        Score(axes, "generated", "a photo", f"{image}.png", metric, float(value), arm.scores.key)
        for image, value in enumerate(values)
        for metric, value in (("identity_zero", value), ("face_found", 1.0))
    ]


@pytest.fixture(scope="session")
def crowd(tmp_path_factory) -> list[dict[str, str]]:
    """As many folders of noise that nobody looks at, each its own."""
    root, rng = tmp_path_factory.mktemp("crowd"), np.random.default_rng(0)
    for number in range(SUBJECTS):
        save_images(root / f"s{number}", to_tensor(rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)))
    return [{"photos": str(root / f"s{number}"), "label": f"s{number}"} for number in range(SUBJECTS)]


GIVEN = {"protections": ["advdm", "aspl", "pid"], "purifiers": ["none", "jpeg"], "seeds": [0, 1]}


@pytest.fixture(scope="session")
def matrix(crowd) -> Matrix:
    """Do not change it: make another with :func:`replace`."""
    return Matrix.of(validate(MatrixConfig, {"subjects": crowd} | GIVEN, "m"))


def results(matrix: Matrix, shift: float = 0.0) -> Results:
    rng = np.random.default_rng(0)
    rows = [row for arm in matrix.arms for row in score(arm, rng, shift)]
    return Results("own", 1, "tiny", rows)


def ranked(matrix: Matrix, scores: Results) -> Board:
    return board(matrix, scores, Store(Path("nowhere")), matrix.arms, ())


@pytest.fixture(scope="session")
def made(matrix) -> Board:
    return ranked(matrix, results(matrix))


def test_protections_stand_by_what_survives_the_strongest_red_team(made):
    found = {row.protection: row for row in made.standings}
    assert [row.protection for row in made.standings] == ["advdm", "aspl", "pid"]
    strongest = {name: row.strongest.label for name, row in found.items()}
    assert strongest == {"advdm": "jpeg", "aspl": "jpeg + cdl", "pid": "nothing"}
    for name, row in found.items():
        assert row.survives.estimate == pytest.approx(CLEAN - max(LEFT[name]), abs=0.01)
        assert row.survives.low < row.survives.estimate < row.survives.high
        assert row.survives.clusters == SUBJECTS
        assert row.untreated.estimate == pytest.approx(CLEAN - LEFT[name][0], abs=0.01)
    assert found["advdm"].share.estimate == pytest.approx(0.3 / 0.5, abs=0.03)
    assert found["pid"].share is None
    assert found["aspl"].beyond_noise.estimate == pytest.approx(0.56 - 0.40, abs=0.01)


def test_what_survives_is_paired_by_subject_and_seed(matrix, made):
    scores = results(matrix)
    clean = Cell("clean", "-", "none", "dreambooth", "plain", "prompts")
    worst = Cell("aspl", "11", "jpeg", "dreambooth", "cdl", "prompts")
    expected = paired_difference(scores.sample(clean, "identity_zero"), scores.sample(worst, "identity_zero"))
    found = made.standing("aspl").survives
    assert made.standing("aspl").strongest.survives == expected
    assert (found.estimate, found.low, found.clusters) == (expected.estimate, expected.low, expected.clusters)
    assert expected.high <= found.high < expected.high + 0.01  # no other red team comes near


def test_baselines_tell_what_the_cure_costs(made):
    clean, noise = made.baselines
    costs = [cell.survives.estimate for cell in clean.cells]
    nothing, jpeg, cdl, both = (CLEAN - left for left in LEFT["clean"])
    assert costs == pytest.approx([nothing, cdl, jpeg, both], abs=0.008)
    assert noise.survives.estimate == pytest.approx(0.02, abs=0.01)


def test_of_red_teams_that_hardly_differ_the_interval_reaches_above_that_of_the_picked_one(matrix):
    rng = np.random.default_rng(2)
    noisy = [row._replace(value=0.4 + 0.1 * rng.normal()) for row in results(matrix).rows]
    rows = ranked(matrix, Results("own", 1, "tiny", noisy)).standings
    pairs = [(row.survives, row.strongest.survives) for row in rows]
    assert all((ours.estimate, ours.low) == (own.estimate, own.low) for ours, own in pairs)
    above = [ours.high - own.high for ours, own in pairs]
    assert min(above) >= 0
    assert max(above) > 0.003


# --- what is not there ------------------------------------------------------------------------------------------------


def without(matrix: Matrix, gone) -> Board:
    """The board where some arms never finished."""
    scores = results(matrix)
    scores.rows = [row for row in scores.rows if not gone(row.axes)]
    arms = [arm for arm in matrix.arms if not gone(arm.axes)]
    return board(matrix, scores, Store(Path("nowhere")), arms, ())


def test_a_row_that_has_not_met_every_red_team_with_everybody_is_not_ranked(matrix, made, tmp_path):
    assert all(row.complete for row in (*made.standings, *made.baselines))

    def gone(axes):  # the strongest against advdm failed; against aspl one subject of ten is there
        if axes.protection == "advdm":
            return axes.purifier == "jpeg" and axes.decoupling == "plain"
        return (
            axes.protection == "aspl" and axes.decoupling == "cdl" and axes.purifier == "jpeg" and axes.subject != "s3"
        )

    found = without(matrix, gone)
    assert [row.protection for row in found.standings] == ["pid", "aspl", "advdm"]
    rows = {row.protection: row for row in found.standings}
    assert rows["pid"] == made.standing("pid")
    assert rows["advdm"].missing == ("jpeg (0 of 20)",)
    assert rows["aspl"].missing == ("jpeg + cdl (2 of 20)",)
    assert rows["aspl"].strongest.label == "cdl"  # of those that met everybody
    assert isnan(rows["advdm"].cells[2].survives.estimate)
    assert headline(found).startswith("After the strongest red team pid at 11/255 still takes")
    text = page(found, [], lambda node: pytest.fail("nothing is read"), tmp_path, str(tmp_path / "store"))
    assert text.count("<small>not ranked</small>") == 2
    assert "advdm at 11/255: jpeg (0 of 20)" in text
    told = standings(found, tmp_path)
    assert "not ranked: aspl@11 has not met everybody; arms: jpeg + cdl (2 of 20)" in told
    assert "not ranked" not in standings(made, tmp_path)


def test_a_row_stands_only_beside_its_references(matrix, made):
    found = without(matrix, lambda axes: axes.protection == "clean" and axes.subject == "s0" and axes.seed == "1")
    assert {row.missing for row in found.standings} == {("clean (19 of 20)",)}
    assert headline(found).startswith("Nothing can be ranked yet")
    assert found.baselines[0].missing == ("clean (76 of 80)",)
    untuned = without(matrix, lambda axes: axes.protection == "untuned")
    assert {row.missing for row in untuned.standings} == {("untuned (0 of 10)",)}


def test_a_red_team_that_a_filter_spares_one_protection_is_missed(crowd):
    spared = {"exclude": [{"protection": "aspl", "purifier": "jpeg", "decoupling": "cdl"}, {"protection": "pid"}]}
    matrix = Matrix.of(validate(MatrixConfig, {"subjects": crowd} | GIVEN | spared, "m"))
    found = ranked(matrix, results(matrix))
    assert {row.protection: row.missing for row in found.standings} == {"advdm": (), "aspl": ("jpeg + cdl (0 of 20)",)}
    assert len(found.standing("aspl").cells) == 3
    one = {"only": [{"purifier": "jpeg", "decoupling": "plain"}]}  # fewer red teams, but the same for all
    matrix = Matrix.of(validate(MatrixConfig, {"subjects": crowd[:2]} | GIVEN | one, "m"))
    assert all(row.complete for row in ranked(matrix, results(matrix)).standings)


COMMANDS = (
    {},
    {"decoupling": True},
    {"purifiers": ["jpeg"], "exclude": [{"purifier": "none"}, {"protection": "pid", "budget": 4}]},
    {"purifiers": ["none", {"name": "jpeg", "quality": 50}], "trainers": ["dreambooth", "lora"], "baselines": "plain"},
)


@pytest.mark.parametrize("changes", COMMANDS, ids=str)
def test_the_command_of_every_cell_makes_that_arm_and_no_other_protection(crowd, tmp_path, changes):
    given = {"subjects": crowd[:1]} | GIVEN | {"budgets": [4, 11], "seeds": 0} | changes
    config = validate(MatrixConfig, given, "m")
    matrix = Matrix.of(config)
    found = ranked(matrix, results(matrix))
    assert len(found.standings) >= 5
    for row in (*found.standings, *found.baselines):
        for cell in row.cells:
            words = shlex.split(command(row, cell, tmp_path, "store"))
            only = filters([words[words.index("--only") + 1]])
            again = Matrix.of(validate(MatrixConfig, config.model_dump(mode="json") | {"only": only}, "m"))
            places = {arm.axes[1:6] for arm in again.arms}
            assert (row.protection, row.budget, *cell.team) in places
            assert {place[0] for place in places} <= {"untuned", "clean", "random_noise", row.protection}
            assert len(places) < len({arm.axes[1:6] for arm in matrix.arms})


# --- red flags --------------------------------------------------------------------------------------------------------


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
    duckdb = pytest.importorskip("duckdb")
    means, best, *_ = recipe("sql", written).split(";")
    rows = {row[:3]: row[3:] for row in duckdb.sql(means).fetchall()}
    assert rows["aspl", "jpeg", "cdl"] == (pytest.approx(0.4, abs=0.01), SUBJECTS * 2 * 4)
    assert ("advdm", "jpeg", "plain") not in rows
    assert ("advdm", "none", "plain") in rows
    pictures = duckdb.sql(best).fetchall()
    assert len(pictures) == 10
    assert [row[-1] for row in pictures] == sorted((row[-1] for row in pictures), reverse=True)


# --- files ------------------------------------------------------------------------------------------------------------


def test_results_are_read_back_as_written(matrix, tmp_path):
    scores = results(matrix)
    scores.flags = {scores.cells[3]: ("no-face", "white-box")}
    scores.rows[0] = scores.rows[0]._replace(value=float("nan"))
    again = Results.read(scores.write(tmp_path / "results.parquet"))
    assert (again.protocol, again.version, again.suite) == ("own", 1, "tiny")
    assert again.cells == scores.cells
    assert again.rows[1:] == scores.rows[1:]
    assert isnan(again.rows[0].value)
    assert again.flags[scores.cells[3]] == ("no-face", "white-box")
    assert again.flags[scores.cells[0]] == ()
    (tmp_path / "results.parquet").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot read the results"):
        Results.read(tmp_path / "results.parquet")


def test_the_board_is_read_back_as_written(made, tmp_path):
    write_whole(tmp_path / "board.json", made.to_json().encode())
    assert read_board(tmp_path) == made
    assert made.standing("aspl", "11").protection == "aspl"
    with pytest.raises(UserError, match="protection 'asp': it is not on this board"):
        made.standing("asp")
    (tmp_path / "board.json").write_text('{"schema_version": 99}')
    with pytest.raises(UserError, match="schema_version is not 2"):
        read_board(tmp_path)


def test_the_headline_says_what_survives(made):
    assert headline(made).startswith(
        "After the strongest red team 3 of 3 protections still take some identity; most, 0.3"
    )
    none = Estimate(0.01, -0.02, 0.04, 5)
    weak = made.model_copy(update={"standings": tuple(r.model_copy(update={"survives": none}) for r in made.standings)})
    assert headline(weak) == "None of 3 protections measurably survives the strongest red team."
    idle = tuple(row.model_copy(update={"flags": ("clean-did-not-learn",)}) for row in made.standings)
    assert headline(made.model_copy(update={"standings": idle})).startswith("Nothing can be said")
    assert headline(made.model_copy(update={"standings": ()})) == "No protection was scored."


def test_numbers_and_bars():
    assert signed(Estimate(-0.1234, -0.2, 0.05, 5)) == "−0.12 [−0.20, 0.05]"
    assert signed(Estimate(0.5, float("nan"), float("nan"), 1)) == "0.50"
    assert signed(Estimate(float("nan"), float("nan"), float("nan"), 0)) == "–"
    at = bar(Estimate(0.1, 0.0, 0.3, 5), (-0.1, 0.4))
    assert at == {"zero": 20.0, "dot": 40.0, "left": 20.0, "width": 60.0}


def test_what_a_person_supplies_is_escaped(made, tmp_path):
    evil = made.model_copy(update={"title": "<script>alert(1)</script>", "protocol": "<b>"})
    text = page(evil, [], lambda node: pytest.fail("nothing is read"), tmp_path, str(tmp_path / "store"))
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert text.count("<script>") == 1


# --- comparisons ------------------------------------------------------------------------------------------------------


def keep(folder: Path, matrix: Matrix, shift: float = 0.0, **changes: object) -> Path:
    """The folder of a run whose scores are shifted."""
    folder.mkdir()
    scores = results(matrix, shift)
    made = board(matrix, scores, Store(folder / "store"), matrix.arms, ())
    made = made.model_copy(update={"config": made.config | changes})
    scores.write(folder / "results.parquet")
    write_whole(folder / "board.json", made.to_json().encode())
    return folder


def test_two_runs_are_compared_arm_by_arm(matrix, tmp_path, capsys):
    a, b = keep(tmp_path / "a", matrix), keep(tmp_path / "b", matrix, 0.1, sampling_steps=50)
    found = compare(a, b)
    assert found.settings == (("sampling_steps", 25, 50),)
    assert (found.only_a, found.only_b) == ((), ())
    treated = [each for each in found.arms if each.cell.protection != "untuned"]
    assert all(each.certain and each.change.estimate == pytest.approx(0.1, abs=1e-9) for each in treated)
    (floor,) = (each for each in found.arms if each.cell.protection == "untuned")
    assert not floor.certain
    assert run("bench", "compare", a, b) == 0
    told = capsys.readouterr().out
    assert "sampling_steps: 25 -> 50" in told
    assert "advdm@11 jpeg + cdl (prompts)" in told
    assert run("bench", "compare", a, b, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["arms"]) == len(found.arms)
    assert run("bench", "compare", a, tmp_path / "nothing") == 2


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


# --- claims -----------------------------------------------------------------------------------------------------------


def test_a_claim_stands_until_a_run_lowers_it(matrix, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, lower = keep(tmp_path / "first", matrix), keep(tmp_path / "lower", matrix)
    cells = read_board(lower)
    rows = list(cells.standings)
    at = next(index for index, row in enumerate(rows) if row.protection == "aspl")
    strong = rows[at].cells[0].model_copy(update={"survives": Estimate(0.03, 0.01, 0.05, 5), "label": "a new one"})
    rows[at] = rows[at].model_copy(
        update={"cells": (strong, *rows[at].cells[1:]), "at": 0, "survives": strong.survives}
    )
    write_whole(lower / "board.json", cells.model_copy(update={"standings": tuple(rows)}).to_json().encode())
    assert run("bench", "claim", first, "--protection", "aspl", "--by", "us") == 0
    path = tmp_path / "claims" / "aspl-11-tiny.json"
    claim = claims.read_claim(path)
    assert (claim.stands.survives.estimate, claim.stands.by) == (pytest.approx(0.2, abs=0.01), "us")
    assert claim.stands.red_team == "jpeg + cdl"
    assert claim.stands.purifier["chain"] == [{"name": "jpeg", "settings": {}}]
    assert run("bench", "claim", first, "--protection", "aspl") == 2
    assert "there is a claim of that name" in capsys.readouterr().err
    assert run("bench", "claim", first, "--challenge", path) == 2
    assert "a challenge lowers it" in capsys.readouterr().err
    assert run("bench", "claim", lower, "--challenge", path, "--by", "them") == 0
    assert "0.030 [0.010, 0.050] stands, by a new one" in capsys.readouterr().out
    assert [each.by for each in claims.read_claim(path).challenges] == ["them"]
    assert [each.name for each in claims.claims(path.parent)] == ["aspl-11-tiny"]
    assert run("bench", "claim", lower) == 2


def test_a_challenge_is_of_the_same_protection_budget_and_suite(matrix, tmp_path, capsys):
    run_ = keep(tmp_path / "run", matrix)
    path = claims.make(run_, "aspl", None, "mine", tmp_path / "claims")
    kept = claims.read_claim(path)
    for changed, reason in (
        (kept.model_copy(update={"suite": "sd15"}), "the claim is of suite 'sd15'"),
        (kept.model_copy(update={"budget": 4.0}), "the run has no 'aspl' at 4/255"),
        (kept.model_copy(update={"protection": {"label": "aspl", "chain": [{"name": "aspl"}]}}), "with the claim's"),
    ):
        path.write_text(changed.model_dump_json())
        assert run("bench", "claim", run_, "--challenge", path) == 2
        assert reason in capsys.readouterr().err


def test_a_claim_that_makes_no_sense_is_refused(matrix, tmp_path):
    path = claims.make(keep(tmp_path / "run", matrix), "pid", "11", "mine", tmp_path / "claims")
    kept = claims.read_claim(path)
    higher = kept.claimed.model_copy(update={"survives": replace(kept.claimed.survives, estimate=0.9)})
    bad = {
        "does not lower": kept.model_copy(update={"challenges": (higher,)}),
        "is called 'other'": kept.model_copy(update={"name": "other"}),
        "schema_version": kept.model_copy(update={"schema_version": 2}),
    }
    for reason, claim in bad.items():
        path.write_text(claim.model_dump_json())
        with pytest.raises(UserError, match=reason):
            claims.read_claim(path)


def test_every_claim_of_this_repository_is_sound():
    folder = Path(__file__).parents[1] / "claims"
    assert [claim.name for claim in claims.claims(folder)] == sorted(path.stem for path in folder.glob("*.json"))
