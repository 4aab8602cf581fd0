"""Claims and challenges, on scores whose right answer is known: what lowers a claim, and all that does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_bench_board import GIVEN, LEFT, crowd, keep, matrix, results
from test_cli import run

from redcloak.bench import claims
from redcloak.bench.board import read_board
from redcloak.bench.config import MatrixConfig
from redcloak.bench.grid import Matrix
from redcloak.bench.results import Results
from redcloak.errors import UserError
from redcloak.parsing import validate
from redcloak.report.table import write_whole

__all__ = ["crowd", "matrix"]

ROOT = Path(__file__).parents[1]
STRONGER = {"aspl": (0.20, 0.22, 0.24, 0.50)}  # 0.1 of 0.6 survives jpeg and cdl, where 0.2 did


@pytest.fixture(scope="module")
def first(matrix, tmp_path_factory) -> Path:
    """A finished run, in which 0.2 of aspl survives."""
    return keep(tmp_path_factory.mktemp("first") / "run", matrix)


@pytest.fixture
def claim(first, tmp_path) -> Path:
    return claims.make(first, "aspl", None, "mine", tmp_path / "claims")


@pytest.fixture
def other(crowd, tmp_path):
    """Another finished run, of another matrix."""

    def make(scores=lambda matrix: results(matrix, **STRONGER), **changes) -> Path:
        given = {"subjects": crowd} | GIVEN | {"protections": ["aspl"]} | changes
        matrix = Matrix.of(validate(MatrixConfig, given, "m"))
        return keep(tmp_path / "other", matrix, scores(matrix))

    return make


def rewrite(folder: Path, change) -> Path:
    """Change the board of a run as JSON."""
    board = json.loads((folder / "board.json").read_text())
    change(board)
    write_whole(folder / "board.json", json.dumps(board).encode())
    return folder


def refused(challenger: Path, claim: Path) -> str:
    """What a challenge is refused for; the claim stays as it was."""
    before = claim.read_bytes()
    with pytest.raises(UserError) as error:
        claims.challenge(challenger, claim)
    assert claim.read_bytes() == before
    return str(error.value)


def test_a_claim_stands_until_a_run_lowers_it(first, other, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("bench", "claim", first, "--protection", "aspl", "--by", "us") == 0
    path = tmp_path / "claims" / "aspl-11-tiny.json"
    claim = claims.read_claim(path)
    assert (claim.stands.survives.estimate, claim.stands.by) == (pytest.approx(0.2, abs=0.01), "us")
    assert (claim.stands.red_team, claim.stands.picked_from) == ("jpeg + cdl", 4)
    assert claim.stands.clean.estimate == pytest.approx(0.6, abs=0.01)
    assert claim.stands.ran["purify"][0]["settings"]["quality"] > 0  # resolved, though nobody wrote it
    assert (claim.protection["name"], claim.measured["name"]) == ("aspl", "identity")
    for method in (claim.protection, claim.measured, claim.stands.ran["personalize"]):
        assert method["version"] >= 1
    assert claim.stands.drawn["prompts"][0]["prompts"] == ["a photo of {subject}", "a smiling photo of {subject}"]
    assert run("bench", "claim", first, "--protection", "aspl") == 2
    assert "there is a claim of that name" in capsys.readouterr().err
    assert run("bench", "claim", first, "--challenge", path) == 2
    assert "a challenge is lower by its interval" in capsys.readouterr().err
    assert run("bench", "claim", other(), "--challenge", path, "--by", "them") == 0
    assert "0.10" in capsys.readouterr().out
    assert [each.by for each in claims.read_claim(path).challenges] == ["them"]
    assert [each.name for each in claims.claims(path.parent)] == ["aspl-11-tiny"]
    assert run("bench", "claim", first) == 2


def test_the_same_settings_count_however_they_are_written(claim, other):
    rounds = claims.read_claim(claim).protection["settings"]["rounds"]  # of the suite; nobody wrote it
    same = {"name": "aspl", "rounds": rounds, "label": "mine"}
    named = other(lambda matrix: results(matrix, mine=STRONGER["aspl"]), protections=[same])
    assert claims.challenge(named, claim).stands.survives.estimate == pytest.approx(0.1, abs=0.01)


def test_other_settings_are_another_protection(claim, other):
    rounds = claims.read_claim(claim).protection["settings"]["rounds"]  # of the suite; nobody wrote it
    fewer = {"name": "aspl", "rounds": rounds + 1, "label": "aspl"}
    said = refused(other(protections=[fewer]), claim)
    assert "the run has no 'aspl' at 11/255 with the claim's settings" in said
    assert f"settings.rounds is {rounds} in the claim, {rounds + 1} in the run" in said


def test_another_version_is_another_protection(claim, other):
    def raised(board):
        for cell in board["standings"][0]["cells"]:
            cell["ran"]["protect"]["version"] += 1

    assert "version is" in refused(rewrite(other(), raised), claim)


def test_a_challenge_is_of_the_same_budget_suite_and_score(claim, other):
    assert "the run has no 'aspl' at 11/255" in refused(other(budgets=[4]), claim)
    shutil.rmtree(claim.parents[1] / "other")
    elsewhere = rewrite(other(), lambda board: board.update(suite="sd15"))
    assert "the claim is of suite 'tiny'" in refused(elsewhere, claim)

    def measured(board):
        board["suite"] = "tiny"
        for cell in board["standings"][0]["cells"]:
            cell["ran"]["metrics"]["identity"]["version"] += 1

    assert "identity_zero is not measured as in the claim: version is" in refused(rewrite(elsewhere, measured), claim)


def test_a_run_that_is_not_complete_is_evidence_of_nothing(claim, first, other, tmp_path):
    partial = rewrite(other(), lambda board: board["standings"][0].update(missing=["jpeg (3 of 20)"]))
    assert "aspl at 11/255 has not met everybody (jpeg (3 of 20)); finish the run" in refused(partial, claim)
    with pytest.raises(UserError, match="has not met everybody"):
        claims.make(partial, "aspl", None, "theirs", tmp_path / "claims")


def test_critical_red_flags_void_a_number(claim, other, tmp_path):
    def nobody(matrix: Matrix) -> Results:
        scores = results(matrix, **STRONGER)
        scores.rows = [row._replace(value=0.0) if row.metric == "face_found" else row for row in scores.rows]
        return scores

    void = other(nobody)
    assert "its number is void by no-face; see docs/red-flags.md" in refused(void, claim)
    with pytest.raises(UserError, match="void by no-face"):
        claims.make(void, "aspl", None, "theirs", tmp_path / "claims")


@pytest.mark.parametrize("axis", ["subjects", "seeds", "photos"])
def test_a_challenge_has_the_people_and_the_seeds_of_the_claim(claim, other, crowd, axis):
    if axis == "subjects":
        assert "the claim rests on the photos of s8, s9, too" in refused(other(subjects=crowd[:8]), claim)
    elif axis == "seeds":
        assert "the claim rests on seed 1, too" in refused(other(seeds=[0, 2]), claim)
        shutil.rmtree(claim.parents[1] / "other")
        assert "the challenge rests on seed 2, too" in refused(other(seeds=[0, 1, 2]), claim)
    else:  # other people under the same names
        renamed = [{**one, "label": f"s{(number + 1) % 10}"} for number, one in enumerate(crowd)]
        assert claims.challenge(other(subjects=renamed), claim).challenges
        shutil.rmtree(claim.parents[1] / "other")

        def strange(board):
            board["photos"]["s3"] = "0" * 64

        assert "the claim rests on the photos of" in refused(rewrite(other(), strange), claim)


def test_a_challenge_means_by_a_seed_what_the_claim_means(claim, other):
    assert "other noise: the claim has common_seeds: false" in refused(other(common_seeds=True), claim)


LAZY = {"trainers": [{"name": "dreambooth", "steps": 1, "label": "lazy"}]}
UNLEARNT = {"clean": (0.12,) * 4, "aspl": (0.1, 0.1, 0.1, 0.11), "random_noise": (0.12,) * 4}


@pytest.mark.parametrize("changes", [LAZY, {"sampling_steps": 1}, {"prompts": ["a cat beside {subject}"]}], ids=str)
def test_a_trainer_that_learns_nobody_lowers_nothing(claim, other, changes):
    said = refused(other(lambda matrix: results(matrix, **UNLEARNT), **changes), claim)
    assert "from clean photos its models show 0.12" in said
    assert "take a trainer that learns as well" in said


def test_another_trainer_that_learns_as_well_and_the_claim_s_own_lower_it(claim, other):
    longer = {"trainers": [{"name": "dreambooth", "steps": 900, "label": "longer"}]}
    assert claims.challenge(other(**longer), claim).stands.survives.estimate == pytest.approx(0.1, abs=0.01)
    shutil.rmtree(claim.parents[1] / "other")
    by_chance = {name: tuple(each - 0.05 for each in left) for name, left in (LEFT | {"aspl": (0.58,) * 4}).items()}
    lowered = claims.challenge(other(lambda matrix: results(matrix, **by_chance)), claim)
    assert lowered.stands.survives.estimate == pytest.approx(0.02, abs=0.01)
    assert lowered.stands.clean.high < lowered.claimed.clean.low


def test_luck_lowers_nothing(claim, other):
    def luckier(matrix: Matrix) -> Results:
        """Lower on average, by less than people differ."""
        scores, rng = results(matrix, aspl=(0.20, 0.22, 0.24, 0.41)), np.random.default_rng(0)
        strays = {f"s{number}": rng.normal(0, 0.03) for number in range(10)}
        mean = np.mean(list(strays.values()))
        scores.rows = [
            row._replace(value=row.value + strays[row.axes.subject] - mean)
            if row.axes.protection == "aspl" and row.metric == "identity_zero"
            else row
            for row in scores.rows
        ]
        return scores

    run_ = other(luckier)
    assert read_board(run_).standing("aspl").survives.estimate < claims.read_claim(claim).stands.survives.estimate
    assert "stands, and this run leaves 0.19" in refused(run_, claim)


def test_a_claim_that_makes_no_sense_is_refused(claim, first, other, tmp_path):
    kept = claims.read_claim(claim)
    lowered = claims.challenge(other(), claim)
    again = lowered.model_copy(update={"challenges": lowered.challenges * 2})
    few = lowered.challenges[0].model_copy(update={"seeds": (0,)})
    bad = {
        "challenge 2: 0.10": again,
        "challenge 1: the claim rests on seed 1, too": lowered.model_copy(update={"challenges": (few,)}),
        "is called 'other'": kept.model_copy(update={"name": "other"}),
        "schema_version is not 2": kept.model_copy(update={"schema_version": 1}),
    }
    for reason, each in bad.items():
        claim.write_text(each.model_dump_json())
        with pytest.raises(UserError, match=reason):
            claims.read_claim(claim)

    def alone(board):
        board["standings"][1]["survives"].update(low=None, high=None)
        assert board["standings"][1]["protection"] == "aspl"

    shutil.copytree(first, tmp_path / "alone")
    with pytest.raises(UserError, match="no number with an interval"):
        claims.make(rewrite(tmp_path / "alone", alone), "aspl", None, "alone", tmp_path / "claims")


def test_every_claim_of_this_repository_is_sound(claim, tmp_path):
    """With a sound claim and an unsound one beside them, so that an empty folder is a test, too."""
    folder = shutil.copytree(ROOT / "claims", tmp_path / "all")
    shutil.copy(claim, folder)
    files = sorted(path.stem for path in (ROOT / "claims").glob("*.json"))
    assert [each.name for each in claims.claims(folder)] == sorted([*files, "mine"])
    assert ("There is none yet" in (ROOT / "claims" / "README.md").read_text()) == (not files)
    shutil.copy(claim, folder / "unsound.json")
    with pytest.raises(UserError, match="is called 'mine'"):
        list(claims.claims(folder))
