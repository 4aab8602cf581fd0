from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_run import LEVELS, METRICS, PROMPTS, arm, finished, table

from redcloak.checks import run_checks
from redcloak.errors import UserError
from redcloak.report import table as table_module
from redcloak.report.build import ArmPictures, Drawn, build, render
from redcloak.report.figures import perturbation, plots
from redcloak.report.model import MethodUsed, Report, read_report, recoveries, summarise
from redcloak.report.table import Row, Table
from redcloak.report.verdict import verdict

ARMS = tuple(map(arm, LEVELS))
HOSTILE = '<img src=x onerror="alert(1)">'


def made(scores=None, **changes):
    scores = table() if scores is None else scores
    fields = {
        "redcloak_version": "0.1.0",
        "created": "2025-06-01T12:00:00Z",
        "subject": "drawn:7",
        "verdict": verdict(scores, ARMS),
        "command": "redcloak audit drawn:7 --suite tiny --out here",
        "config": {"suite": "tiny", "photos": "drawn:7", "prompts": list(PROMPTS)},
        "arms": ARMS,
        "metrics": METRICS,
        "rows": summarise(scores, ARMS, METRICS),
        "flags": run_checks(finished(scores)),
        "methods": (
            MethodUsed(kind="protect", name="aspl", title="ASPL", cite="Van Le 2023", license="Apache-2.0"),
            MethodUsed(kind="purify", name="x", title="Xnet", cite="X", license="CC BY-NC 4.0", free=False),
        ),
        "wall_seconds": {"protect": 312.0, "personalize": 7325.0},
        "libraries": {"torch": "2.9.0"},
    }
    return Report(**(fields | changes))


def pictures(size=16):
    rng = np.random.default_rng(0)
    clean = [rng.integers(0, 255, (size, size, 3), dtype=np.uint8) for _ in range(3)]
    noisy = [np.bitwise_xor(image, 3) for image in clean]
    drawn = [Drawn(image, prompt, seed) for seed in (0, 1) for prompt in PROMPTS for image in clean]
    return {
        "clean": ArmPictures(photos=clean, generated=drawn),
        "protected": ArmPictures(photos=noisy, clean=clean, generated=drawn[::-1]),
        "protected+jpeg": ArmPictures(photos=noisy, clean=clean, purified=clean[::-1], generated=drawn),
    }


class Page(HTMLParser):
    """Every tag with its attributes, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "img", "path", "use"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


# The table of scores.


def test_scores_survive_the_disk(tmp_path):
    before = table(subjects=2)
    path = before.write(tmp_path / "scores.parquet")
    after = Table.read(path)
    for name in table_module.NAMES:
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    assert after.seed.dtype == np.int64
    assert after.value.dtype == np.float64
    assert [each.name for each in tmp_path.iterdir()] == ["scores.parquet"]


def test_select_and_concat():
    scores = table(subjects=2)
    clean = scores.select(arm="clean", metric="identity", source="generated", seed=1)
    assert len(clean) == 2 * 2 * 4
    assert set(clean.seed) == {1}
    both = Table.concat([clean, scores.select(arm="protected")])
    assert len(both) == len(clean) + len(scores.select(arm="protected"))
    assert len(Table.concat([])) == 0


def test_a_missing_value_in_the_file_is_undefined(tmp_path):
    columns = {name: ["x"] for name in table_module.NAMES} | {"seed": [0], "value": [None]}
    pq.write_table(pa.table(columns, schema=table_module.SCHEMA), tmp_path / "s.parquet")
    assert np.isnan(Table.read(tmp_path / "s.parquet").value[0])


@pytest.mark.parametrize("content", [None, b"", b"not parquet"])
def test_scores_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "scores.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        Table.read(path)


def test_scores_without_a_column(tmp_path):
    pq.write_table(pa.table({"subject": ["a"]}), tmp_path / "s.parquet")
    with pytest.raises(UserError, match="column 'arm' is missing"):
        Table.read(tmp_path / "s.parquet")


# The verdict.


def judged(levels, **settings):
    scores = table(LEVELS | levels, **settings)
    return verdict(scores, ARMS)


def test_it_holds():
    found = judged({})
    assert found.word == "holds"
    assert found.sentence == (
        "The protection held: it took 0.40 [0.38, 0.41] of identity, and the strongest of 3 counter-measures, "
        "the red team, won back 26% [20%, 33%] of that."
    )
    assert found.interval.low > 0
    assert found.scope == "The 95% intervals are over 8 subjects and their training seeds."


def test_it_is_undone_by_a_purifier_which_is_named():
    found = judged({"protected+codesr": 0.57, "red_team": 0.58})
    assert found.word == "does_not_hold"
    assert "protected+codesr won back 92%" in found.sentence
    assert "red team" not in found.sentence


def test_it_is_undone_by_the_red_team_alone():
    found = judged({"red_team": 0.55})
    assert found.word == "does_not_hold"
    assert "no purifier alone clearly undid it, but the red team won back" in found.sentence


def test_it_did_nothing_measurable():
    found = judged({"protected": 0.598}, pictures=16)
    assert found.word == "no_effect"
    assert found.sentence.startswith("The protection did nothing measurable: identity ")
    assert found.interval.low < 0 < found.interval.high


def test_it_did_too_little_to_matter():
    found = judged({"protected": 0.52})
    assert found.interval.low > 0
    assert found.word == "no_effect"
    assert "something, but too little to matter: identity fell by 0.0" in found.sentence


def test_it_made_identity_rise():
    found = judged({"protected": 0.9})
    assert found.word == "no_effect"
    assert re.search(r"identity rose by 0\.\d\d \[0\.\d\d, 0\.\d\d\] over clean photos", found.sentence)


def test_it_is_undecided_where_the_effect_may_be_nothing_or_much():
    found = judged({"protected": 0.5}, spread=0.3, subjects=3)
    assert found.word == "undecided"
    assert "which may be nothing or much" in found.sentence


@pytest.mark.parametrize(("level", "side"), [(0.37, "under"), (0.41, "over")])
def test_it_is_undecided_where_the_share_won_back_straddles_half(level, side):
    scores = table(LEVELS | {"protected+jpeg": level}, spread=0.05)
    share = recoveries(scores, ARMS)["protected+jpeg"].share
    assert share is not None
    assert share.low < 0.5 < share.high
    assert (share.estimate < 0.5) == (side == "under")
    found = verdict(scores, ARMS)
    assert found.word == "undecided"
    assert "neither clearly less nor clearly more than half" in found.sentence


def test_it_is_undecided_where_the_clean_model_did_not_learn():
    found = judged({"clean": 0.05, "protected": 0.05})
    assert found.word == "undecided"
    assert "nothing to protect" in found.sentence


def test_it_is_undecided_where_no_counter_measure_was_scored():
    scores = table({"untuned": 0.05, "clean": 0.6, "protected": 0.2})
    found = verdict(scores, ARMS[:4])
    assert found.word == "undecided"
    assert "no counter-measure was scored" in found.sentence


@pytest.mark.parametrize("scores", [Table.of([]), table({"clean": 0.6})])
def test_it_is_undecided_without_scores(scores):
    found = verdict(scores, ARMS)
    assert found.word == "undecided"
    assert "no scored picture in common" in found.sentence
    assert "nan" not in str(found)


def test_one_picture_has_no_interval_and_says_so():
    rows = [Row("s", name, 0, "generated", "p", "i", "identity_zero", LEVELS[name]) for name in LEVELS]
    found = verdict(Table.of(rows), ARMS)
    assert found.word == "undecided"
    assert found.sentence == "Undecided: identity fell by 0.40, on too few pictures for an interval."


@pytest.mark.parametrize(
    ("seeds", "says"),
    [(2, "speak of 2 training seeds and their pictures, not of other people"), (1, "speak of pictures alone")],
)
def test_one_subject_speaks_of_itself(seeds, says):
    found = judged({}, subjects=1, seeds=seeds)
    assert found.scope.startswith("One subject")
    assert says in found.scope
    assert "not of other people" in str(found)


def test_few_subjects_are_said_to_be_few():
    assert "over 3 subjects and their training seeds; with so few" in judged({}, subjects=3).scope


def test_losing_faces_counts_as_losing_identity():
    scores = table(LEVELS | {"protected": 0.58})
    lost = (scores.arm == "protected") & (scores.source == "generated")
    here = lost & (scores.metric == "identity")
    zero = lost & (scores.metric == "identity_zero") & (scores.prompt == PROMPTS[0])
    scores = replace(scores, value=np.where(here & (scores.prompt == PROMPTS[0]), np.nan, scores.value))
    scores = replace(scores, value=np.where(zero, 0.0, scores.value))
    assert verdict(scores, ARMS).interval.estimate == pytest.approx(0.31, abs=0.04)
    assert verdict(scores, ARMS, metric="identity").word == "no_effect"


def test_recoveries_are_of_the_arms_that_treat_a_protection():
    assert list(recoveries(table(), ARMS)) == ["protected+jpeg", "protected+codesr", "red_team"]


# The report.


def test_a_report_survives_the_disk_with_undefined_numbers(tmp_path):
    scores = table(subjects=1, seeds=1, pictures=1)
    lost = (scores.arm == "protected") & (scores.metric == "identity")
    report = made(replace(scores, value=np.where(lost, np.nan, scores.value)))
    path = tmp_path / "report.json"
    path.write_text(report.to_json(), encoding="utf-8")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = read_report(path)
    assert again.to_json() == report.to_json()
    cell = {row.arm: row for row in again.rows}["protected"].generated["identity"]
    assert cell.empty
    assert (cell.n, cell.undefined) == (0, 2)
    assert again.verdict.interval.over == "pictures"


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 99}', '{"schema_version": 1}'])
def test_a_report_that_cannot_be_read(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UserError, match=r"report\.json"):
        read_report(tmp_path / "report.json")


def test_the_page_is_self_contained_and_runs_nothing():
    text = render(made(), pictures())
    page = Page(text)
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("a")
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    policy = [each["content"] for each in page.all("meta") if each.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_the_page_says_what_the_report_says_in_order():
    report = made()
    text = Page(render(report, pictures())).text
    order = [
        report.verdict.sentence,
        "No red flag was raised.",
        "The arms side by side",
        "The numbers",
        "The pictures",
        "How to reproduce this",
        report.command,
        "Methods, sources, licences",
        "Van Le 2023",
        "2 h 02 min",
        "What this does not tell",
        "Not free for every use: Xnet (CC BY-NC 4.0).",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "One subject" not in text


@pytest.mark.parametrize(
    ("subjects", "seeds", "said"), [(1, 1, True), (1, 7, True), (1, 8, False), (2, 2, False), (8, 2, False)]
)
def test_the_page_says_where_so_few_runs_make_intervals_too_short(subjects, seeds, said):
    text = Page(render(made(table(subjects=subjects, seeds=seeds, pictures=1)), {})).text
    assert text.count("With so few training runs intervals tend to be too short") == (2 if said else 0)


def test_the_page_shows_the_flags_with_their_section():
    report = made(flags=run_checks(finished(held_out=False)))
    text = Page(render(report, {})).text
    assert "No red flag" not in text
    assert "docs/red-flags.md#reference-not-held-out" in text
    assert "Identity is measured against the training photos" in text


def test_the_table_has_the_numbers_of_the_scores():
    scores = table()
    text = Page(render(made(scores), {})).text
    clean = scores.sample("clean", "identity_zero")
    assert f"clean 128 {np.mean(clean.values):.3f}" in text
    share = recoveries(scores, ARMS)["red_team"].share
    assert share is not None
    assert f"{share.estimate:.0%} [{share.low:.0%}, {share.high:.0%}]" in text.replace("−", "-")


def test_undefined_numbers_are_dashes_and_never_nan():
    scores = table(subjects=1, seeds=1, pictures=1)
    lost = (scores.arm == "protected") & (scores.source == "generated")
    text = Page(render(made(replace(scores, value=np.where(lost, np.nan, scores.value))), {})).text
    assert "nan" not in text.lower().split()
    assert "–" in text


def test_whatever_a_person_supplies_is_escaped():
    arms = tuple(each.model_copy(update={"title": HOSTILE + "$x$", "words": HOSTILE}) for each in ARMS)
    drawn = ArmPictures(generated=[Drawn(np.zeros((8, 8, 3), np.uint8), HOSTILE, 0)])
    report = made(subject=HOSTILE, command=HOSTILE, config={"suite": HOSTILE, HOSTILE: HOSTILE}, arms=arms)
    text = render(report, {"clean": drawn})
    assert "<img src=x" not in text
    page = Page(text)
    assert len(page.all("img")) == 1
    assert HOSTILE in page.all("img")[0]["alt"]
    assert "$x$</text>" in plots(report, ("identity_zero",))[0].svg


def test_every_picture_has_words_and_no_row_is_embedded_twice():
    text = render(made(), pictures())
    page = Page(text)
    assert page.all("img")
    assert all(each["alt"].strip() for each in page.all("img"))
    figures = [each for each in page.all("div") if each.get("role") == "img"]
    assert len(figures) == 4  # the arms and the subjects, of identity and of quality
    assert "protected 0." in figures[0]["aria-label"]
    assert "Photos: as under “protected”" in page.text
    assert "Generated, seed 0: as under “clean”" in page.text


def test_generated_pictures_take_turns_between_prompts():
    page = Page(render(made(), {"clean": pictures()["clean"]}))
    captions = [each["alt"] for each in page.all("img") if "seed 0" in each["alt"]]
    assert [PROMPTS[0] in each for each in captions] == [True, False] * 3


def test_large_pictures_are_embedded_small():
    photo = np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8)
    assert len(render(made(), {"clean": ArmPictures(photos=[photo])})) < 600 * 600 * 3 / 2


def test_a_perturbation_is_shown_ten_times_around_grey():
    clean = np.full((1, 3, 3), 100, np.uint8)
    photo = clean + np.array([[[0, 5, 20]], [[1, 2, 3]], [[0, 0, 0]]], np.uint8).reshape(1, 3, 3)
    assert perturbation(photo, clean).ravel().tolist() == [128, 178, 255, 138, 148, 158, 128, 128, 128]
    assert perturbation(clean, photo).ravel().tolist()[:3] == [128, 78, 0]


def test_a_figure_takes_the_colours_of_the_page():
    identity, quality = plots(made(), ("identity_zero", "quality", "absent"))
    assert "var(--accent)" in identity.svg
    assert not re.search(r"#[0-9a-f]{6}", identity.svg)
    ids = [set(re.findall(r'\bid="([^"]+)"', plot.svg)) for plot in (identity, quality)]
    assert not ids[0] & ids[1]
    for plot, known in zip((identity, quality), ids, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", plot.svg)) | set(re.findall(r'href="#([^"]+)"', plot.svg)) <= known


def test_the_same_report_gives_the_same_page():
    assert render(made(), pictures()) == render(made(), pictures())


def test_build_writes_three_files(tmp_path):
    scores = table()
    page = build(made(scores), pictures(), scores, tmp_path / "new" / "out")
    assert page.name == "report.html"
    assert sorted(each.name for each in page.parent.iterdir()) == ["report.html", "report.json", "scores.parquet"]
    assert read_report(page.parent / "report.json").verdict.word == "holds"
    assert len(Table.read(page.parent / "scores.parquet")) == len(scores)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    scores = table()
    build(made(scores), {}, scores, tmp_path)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table_module.os, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        build(made(scores, subject="another"), {}, scores, tmp_path)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_a_file_in_the_way_is_a_users_error(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="choose another --out"):
        build(made(), {}, table(), tmp_path / "out")
