from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_run import LEVELS, METRICS, arm, finished, table

from redcloak.api import Budget, Score
from redcloak.checks import checks, run_checks
from redcloak.report.table import Table

DOCS = (Path(__file__).parents[1] / "docs" / "red-flags.md").read_text(encoding="utf-8")


def anchors(run):
    return {flag.anchor for flag in run_checks(run)}


def only(run, anchor):
    flags = run_checks(run)
    assert [flag.anchor for flag in flags] == [anchor]
    return flags[0]


def with_photos(name, metric, value):
    """The healthy scores with one metric of one arm's photos set."""
    scores = table()
    here = (scores.arm == name) & (scores.metric == metric) & (scores.source == "photos")
    return replace(scores, value=np.where(here, value, scores.value))


def test_a_healthy_run_raises_nothing():
    assert run_checks(finished()) == ()


def test_clean_that_did_not_learn():
    flat = dict.fromkeys(LEVELS, 0.5)
    flags = {flag.anchor: flag for flag in run_checks(finished(table(flat)))}
    assert flags["clean-did-not-learn"].severity == "critical"
    assert flags["clean-did-not-learn"].arm == "clean"
    assert "untuned-scores-as-high" in flags


def test_an_untuned_model_that_scores_nearly_as_high_although_training_added_something():
    flag = only(finished(table(LEVELS | {"untuned": 0.56})), "untuned-scores-as-high")
    assert "0.555 [0.531, 0.579] of identity before it saw the subject, and 0.596 [" in flag.message


def test_an_untuned_model_scored_under_one_seed_is_compared_with_every_seed():
    scores = table(LEVELS | {"clean": 0.05, "untuned": 0.05})
    keep = (scores.arm != "untuned") | (scores.seed == 0)
    once = Table(**{name: column[keep] for name, column in vars(scores).items()})
    assert "clean-did-not-learn" in anchors(finished(once))


@pytest.mark.parametrize("name", ["protected", "random_noise"])
def test_a_budget_exceeded_on_the_saved_photo(name):
    flag = only(finished(with_photos(name, "linf", 12.0)), "budget-exceeded")
    assert flag.arm == name
    assert "12/255" in flag.message
    assert "11/255" in flag.message
    assert flag.severity == "critical"


def test_a_budget_used_to_the_full_is_fine_and_purified_photos_have_none():
    run = finished(with_photos("protected", "linf", 11.0), budget=Budget.of_255(11))
    assert run_checks(run) == ()
    assert max(run.photos("protected+jpeg", "linf")) > 11


def test_a_budget_of_the_mean_square_is_checked_as_such():
    wide = with_photos("protected", "linf", 40.0)
    photos = wide.select(metric="linf", source="photos")
    squares = replace(photos, metric=np.full(len(photos), "l2"), value=np.full(len(photos), 11.0001))
    scores = Table.concat([wide, squares])
    assert "budget-exceeded" in anchors(finished(scores))
    assert run_checks(finished(scores, budget=Budget.of_255(11, "l2"))) == ()
    assert "budget-exceeded" in anchors(finished(scores, budget=Budget.of_255(10, "l2")))


def test_a_protection_that_changed_nothing():
    assert only(finished(with_photos("protected", "linf", 0.0)), "protection-changed-nothing").arm == "protected"


def test_a_purifier_that_changed_nothing():
    arms = tuple(
        arm(name).model_copy(update={"purifier_steps": 0}) if name.endswith("jpeg") else arm(name) for name in LEVELS
    )
    flag = only(finished(arms=arms), "purifier-changed-nothing")
    assert flag.arm == "protected+jpeg"
    assert flag.message == "jpeg returned the very photos it was given."


@pytest.mark.parametrize(("metric", "value"), [("psnr", 15.0), ("identity", 0.2)])
def test_a_purifier_that_ruins_clean_photos(metric, value):
    assert only(finished(with_photos("clean+red_team", metric, value)), "purifier-ruins-clean").arm == (
        "clean+red_team"
    )
    assert run_checks(finished(with_photos("protected+jpeg", metric, value))) == ()


def test_a_purifier_that_ruins_clean_photos_is_named_in_every_arm():
    scores = with_photos("clean+red_team", "psnr", 15.0)
    arms = tuple(arm(name) for name in LEVELS)
    twice = arm("clean+red_team").model_copy(update={"name": "clean+jpeg"})
    more = (scores.arm == "clean+red_team") & (scores.source == "photos")
    both = Table(*(np.concatenate([column, column[more]]) for column in vars(scores).values()))
    both.arm[len(scores.arm) :] = "clean+jpeg"
    flag = only(finished(both, arms=(*arms, twice)), "purifier-ruins-clean")
    assert {flag.arm, *flag.also} == {"clean+red_team", "clean+jpeg"}
    assert flag.message.endswith(f"from the originals (also: {flag.also[0]}).")


def test_too_few_images_counts_defined_values_and_names_the_metric():
    needy = METRICS | {"quality": Score("Quality", True, 1, 5, minimum_n=1000)}
    flag = only(finished(metrics=needy), "too-few-images")
    assert "quality rests on 128 pictures and needs at least 1000" in flag.message
    scores = table()
    gone = (scores.arm == "protected") & (scores.metric == "identity")
    emptied = replace(scores, value=np.where(gone, np.nan, scores.value))
    flags = {flag.anchor: flag for flag in run_checks(finished(emptied))}
    assert flags.keys() == {"too-few-images", "subjects-left-out"}
    assert flags["too-few-images"].arm == "protected"


def test_no_face_in_most_pictures_is_critical_for_the_clean_arm():
    flags = {flag.anchor: flag for flag in run_checks(finished(table(no_face=0.8)))}
    assert (flags["no-face"].arm, flags["no-face"].severity) == ("clean", "critical")
    assert flags["no-face"].message.endswith(f"(also: {', '.join(sorted(flags['no-face'].also))}).")
    assert {"clean", *flags["no-face"].also} == set(LEVELS)
    scores = table()
    here = (scores.arm == "protected") & (scores.metric == "face_found")
    flag = only(finished(replace(scores, value=np.where(here, 0.0, scores.value))), "no-face")
    assert (flag.arm, flag.severity) == ("protected", "warning")


def test_reference_photos_that_were_trained_on():
    assert only(finished(held_out=False), "reference-not-held-out").severity == "warning"


def test_random_noise_that_does_as_much():
    assert only(finished(table(LEVELS | {"random_noise": 0.2})), "random-noise-as-harmful").arm == "random_noise"


def test_seeds_further_apart_than_the_arms():
    scores = table()
    moved = (scores.seed == 1) & (scores.metric == "identity_zero")
    wild = replace(scores, value=np.where(moved, scores.value + 0.5, scores.value))
    assert "by 0.5" in only(finished(wild), "seed-spread").message


def test_a_single_seed_says_that_the_spread_is_not_seen():
    assert "one training seed" in only(finished(table(seeds=1)), "seed-spread").message


def test_white_box_is_information():
    flag = only(finished(surrogate="sd15"), "white-box")
    assert flag.severity == "info"
    assert run_checks(finished(surrogate=None)) == ()


def test_noise_that_all_subjects_share_is_information():
    flag = only(finished(common_seeds=True), "common-seeds")
    assert (flag.severity, flag.message) == (
        "info",
        "all 8 subjects share their noise: intervals hold for these 2 seeds.",
    )
    assert "common-seeds" not in anchors(finished(table(subjects=1), common_seeds=True))
    whole = table()
    keep = whole.metric == "quality"
    scored = Table(**{name: column[keep] for name, column in vars(whole).items()})
    assert "common-seeds" in anchors(finished(scored, common_seeds=True))  # the score that minds seeds most
    once = {flag.anchor: flag for flag in run_checks(finished(table(seeds=1), common_seeds=True))}
    assert once["common-seeds"].message.endswith("intervals hold for this one seed.")


def test_missing_arms_and_metrics_raise_nothing():
    few = table({"clean": 0.6, "protected": 0.2})
    assert run_checks(finished(few)) == ()
    assert run_checks(finished(Table.of([]))) == ()


def test_critical_flags_come_first():
    run = finished(with_photos("protected", "linf", 30.0), held_out=False, surrogate="sd15")
    assert [flag.severity for flag in run_checks(run)] == ["critical", "warning", "info"]


def test_every_check_has_a_section_of_three_parts_and_no_section_is_left_over():
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOCS, re.MULTILINE | re.DOTALL))
    assert {title.lower().replace(" ", "-") for title in sections} == set(checks())
    for title, text in sections.items():
        parts = re.findall(r"^\*\*(.+?)\*\*", text, re.MULTILINE)
        assert parts == ["Raised if", "What it means.", "What to do."], title


def test_a_check_raises_the_anchor_that_its_name_says():
    for anchor, check in checks().items():
        assert check.__name__ == "check_" + anchor.replace("-", "_")
    source = Path(run_checks.__code__.co_filename).read_text(encoding="utf-8")
    for anchor, body in re.findall(r"^def check_(\w+)(.*?)(?=^def |\Z)", source, re.MULTILINE | re.DOTALL):
        assert set(re.findall(r'Flag\(\s*"([^"]+)"', body)) == {anchor.replace("_", "-")}


def test_too_few_subjects_for_the_tests_of_a_report():
    flag = only(finished(table(subjects=5)), "too-few-subjects")
    assert re.search(r"5 subjects; \d corrected tests need \d+ before any difference can be significant", flag.message)
    assert only(finished(table(subjects=1)), "too-few-subjects").severity == "info"


def test_a_subject_without_a_score_is_named():
    scores = table()
    lost = (scores.arm == "protected") & (scores.subject == "subject-2") & (scores.metric == "identity_zero")
    run = finished(replace(scores, value=np.where(lost, np.nan, scores.value)))
    flag = next(flag for flag in run_checks(run) if flag.anchor == "subjects-left-out")
    assert flag.arm == "protected"
    assert "identity_zero is undefined for 1 of 8 subjects (subject-2)" in flag.message
