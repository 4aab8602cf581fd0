"""Scores of whole sets: what their intervals rest on, how many pictures they need; and scores without a direction."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import numpy as np
import pytest
from fake_run import LEVELS, METRICS, arm, finished, table
from test_report import made

from redcloak.api import Score
from redcloak.checks import run_checks
from redcloak.report.build import build
from redcloak.report.model import Arm, summarise
from redcloak.report.table import Table
from redcloak.stats import Estimate, Sample, cluster_bootstrap

KID = Score("KID", False, -16, 16, "", 32, of_set=True)
CLEAN = {"clean": LEVELS["clean"]}


def interval(scores: Table, score: Score) -> Estimate:
    """Of what the clean arm's model draws."""
    return summarise(scores, [arm("clean")], {"quality": score})[0].generated["quality"].interval


def test_one_set_has_no_interval_however_many_pictures_it_has():
    scores = table(CLEAN, subjects=1, seeds=1, pictures=16)
    found = interval(scores, KID)
    assert found.words == f"{found.estimate:.3f} (1 set: no interval)"
    plain = interval(scores, replace(KID, of_set=False))
    assert (plain.estimate, plain.over) == (pytest.approx(found.estimate), "pictures")
    assert not isnan(plain.low)


def test_the_sets_of_one_subject_are_drawn_again_whole():
    scores = table(CLEAN, subjects=1, seeds=5)
    sample = scores.sample("clean", "quality")
    means = np.array([sample.values[sample.seeds == seed].mean() for seed in range(5)])
    expected = cluster_bootstrap(means, np.zeros(5), subclusters=np.arange(5))
    assert interval(scores, KID) == expected
    assert expected.over == "seeds"


def test_over_subjects_a_set_is_as_good_as_its_pictures():
    scores = table(CLEAN)
    ours, theirs = interval(scores, KID), interval(scores, replace(KID, of_set=False))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.over == "subjects"


def test_a_set_without_a_value_is_no_set():
    values = np.array([1.0, 3.0, np.nan, np.nan])
    found = Sample(values, np.array(["a"] * 4), np.array([0, 0, 1, 1])).sets
    assert (found.values.tolist(), found.seeds.tolist()) == ([2.0], [0])
    assert not len(Sample(values[:0], np.array([], str), np.array([], int)).sets.values)


def flagged(score: Score, references: int | None = None, seeds: int = 2) -> list[str]:
    scores, arms = table(CLEAN, subjects=8, seeds=seeds, pictures=8), tuple[Arm, ...]([arm("clean")])
    run = finished(scores, arms=arms, metrics=METRICS | {"quality": score}, references=references)
    return [flag.message for flag in run_checks(run) if flag.anchor == "too-few-images"]


def test_sets_are_counted_one_by_one_and_so_are_references():
    assert flagged(KID) == ["quality rests on 16 pictures in a set and needs at least 32."]
    assert flagged(replace(KID, of_set=False)) == []
    small = replace(KID, minimum_n=16)
    assert flagged(small) == flagged(small, references=16) == []
    assert flagged(small, references=6) == ["quality rests on 6 reference photos and needs at least 16."]
    assert flagged(replace(KID, of_set=False), references=6) == []


def test_a_score_may_have_no_better_direction(tmp_path):
    assert [Score("", way, 0, 1).better for way in (True, False, None)] == ["higher", "lower", "neither"]
    scores = table()
    pages = []
    for way in (True, False, None):
        metrics = METRICS | {"quality": Score("Quality", way, 1, 5, "points")}
        build(made(scores, metrics=metrics), {}, scores, tmp_path)
        pages.append((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert ["points ↑" in page for page in pages] == [True, False, False]
    assert ["points ↓" in page for page in pages] == [False, True, False]
    assert "neither is better" in pages[2]
