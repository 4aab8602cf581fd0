"""The leaderboard, claims and comparisons, on scores whose right answer is known."""

from __future__ import annotations

import json
import shlex
from math import isnan
from pathlib import Path

import numpy as np
import pytest

from redcloak.bench.board import Board, read_board
from redcloak.bench.config import MatrixConfig
from redcloak.bench.grid import Arm, Matrix
from redcloak.bench.page import bar, command, headline, page, signed
from redcloak.bench.ranking import board
from redcloak.bench.results import Cell, Results, Score
from redcloak.cli.bench import filters
from redcloak.cli.bench_words import as_markdown, standings
from redcloak.errors import UserError
from redcloak.images import save_images, to_tensor
from redcloak.parsing import validate
from redcloak.report.table import write_whole
from redcloak.runtime.store import Store
from redcloak.stats import Estimate, paired_difference

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


def score(arm: Arm, rng: np.random.Generator, shift: float, left: dict[str, tuple[float, ...]]) -> list[Score]:
    axes = arm.axes
    team = (axes.purifier != "none") + 2 * (axes.decoupling == "cdl")
    level = FLOOR if axes.protection == "untuned" else left[axes.protection][team] + shift
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


def results(matrix: Matrix, shift: float = 0.0, **left: tuple[float, ...]) -> Results:
    """Scores of every arm; ``shift`` is added but to the floor, ``left`` replaces that of a protection."""
    rng = np.random.default_rng(0)
    rows = [row for arm in matrix.arms for row in score(arm, rng, shift, LEFT | left)]
    return Results("own", 1, "tiny", rows)


def ranked(matrix: Matrix, scores: Results) -> Board:
    return board(matrix, scores, Store(Path("nowhere"), read_only=True), matrix.arms, ())


@pytest.fixture(scope="session")
def made(matrix) -> Board:
    return ranked(matrix, results(matrix))


def keep(folder: Path, matrix: Matrix, scores: Results | None = None, **changes: object) -> Path:
    """The folder of a finished run."""
    folder.mkdir()
    scores = scores or results(matrix)
    made = ranked(matrix, scores)
    made = made.model_copy(update={"config": made.config | changes})
    scores.write(folder / "results.parquet")
    write_whole(folder / "board.json", made.to_json().encode())
    return folder


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


def test_without_faces_the_first_score_in_which_more_is_better_ranks(crowd):
    given = {"subjects": crowd, "metrics": ["niqe", "clip_i"]} | GIVEN
    pets = Matrix.of(validate(MatrixConfig, given, "m"))
    scores = results(pets)
    scores.rows = [row._replace(metric="clip_i") for row in scores.rows if row.metric == "identity_zero"]
    found = ranked(pets, scores)
    assert found.metric == "clip_i"
    assert [row.protection for row in found.standings if row.complete] == ["advdm", "aspl", "pid"]
    assert headline(found).startswith("After the strongest red team 3 of 3 protections still take some clip_i")
    with pytest.raises(UserError, match="a leaderboard needs a score in which more is better"):
        validate(MatrixConfig, {"subjects": crowd, "metrics": ["niqe"]} | GIVEN, "m").check("m")


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
    return board(matrix, scores, Store(Path("nowhere"), read_only=True), arms, ())


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
    assert "| aspl | 11 |" in (told := as_markdown(found))
    assert "| not ranked, lacks jpeg + cdl (2 of 20) |" in told


def test_a_board_from_before_had_the_same_noise_for_everybody(made):
    old = json.loads(made.to_json())
    assert old["config"].pop("common_seeds") is False
    assert Board.model_validate(old).config["common_seeds"] is True
    assert Board.model_validate_json(made.to_json()) == made


def test_the_tables_as_markdown_say_what_the_board_says(made):
    first, ranks, every, about = as_markdown(made).split("\n\n")
    assert first == headline(made)
    head, ruler, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in ranks.splitlines())
    assert len(head) == len(ruler) == len(rows[0])
    assert [row[0] for row in rows] == [row.protection for row in made.standings]
    assert [row[3] for row in rows] == [row.strongest.label for row in made.standings]
    (_, *teams), _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in every.splitlines())
    assert [row[0] for row in rows] == ["advdm@11", "aspl@11", "pid@11", "clean", "random_noise@11"]
    for row, standing in zip(rows, made.standings, strict=False):
        (bold,) = (team for team, cell in zip(teams, row[1:], strict=True) if cell.startswith("**"))
        assert bold == standing.strongest.label
    assert about.startswith("own v1: 10 subjects, 2 seeds, ")


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
    words = "After the strongest red team 3 of 3 protections still take some identity, {} of them measurably more than "
    assert headline(made).startswith(f"{words.format(3)}random noise; most, 0.3")
    none, rows = Estimate(0.01, -0.02, 0.04, 5), made.standings
    some = (*rows[:1], *(row.model_copy(update={"beyond_noise": none}) for row in rows[1:]))
    assert headline(made.model_copy(update={"standings": some})).startswith(words.format(1))
    less = tuple(row.model_copy(update={"beyond_noise": none}) for row in rows)
    assert headline(made.model_copy(update={"standings": less})).startswith(words.format("none"))
    alone = headline(made.model_copy(update={"standings": less[:1]}))
    assert "still takes some identity, not measurably more than random noise; most, 0.3" in alone
    unknown = tuple(row.model_copy(update={"beyond_noise": None}) for row in rows)
    assert "still take some identity; most, 0.3" in headline(made.model_copy(update={"standings": unknown}))
    weak = made.model_copy(update={"standings": tuple(row.model_copy(update={"survives": none}) for row in rows)})
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
