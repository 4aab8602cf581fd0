"""The report as a browser shows it, on a desk and on a phone."""

from __future__ import annotations

import pytest
from chromium import DESKTOP, PHONE, Chromium, find
from fake_run import table
from test_report import made, pictures

from redcloak.report.build import render

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium here; .ci/run installs one")
SIZES = {"desktop": DESKTOP, "phone": PHONE}


@pytest.fixture(scope="module")
def browser():
    with Chromium() as running:
        yield running


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(made(table(subjects=9)), pictures(64)), encoding="utf-8")
    return path


@pytest.mark.parametrize("size", SIZES)
def test_the_report_has_no_error_asks_for_nothing_and_fits(browser, report, size):
    visit = browser.visit(report, SIZES[size])
    visit.check()
    assert "The arms side by side" in visit.text
    assert visit.title.endswith("redcloak audit")
    assert visit.picture.startswith(b"\x89PNG")


def test_a_report_of_one_subject_and_long_words_fits_a_phone(browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render(made(table(subjects=1), subject="x" * 300), {}), encoding="utf-8")
    browser.visit(path, PHONE).check()


def test_it_is_legible_in_the_dark(browser, report):
    visit = browser.visit(report, DESKTOP, dark=True)
    visit.check()
    assert visit.picture != browser.visit(report, DESKTOP).picture


BAD = {
    "console": "<script>console.error('no')</script>",
    "exception": "<script>null.x</script>",
    "request": "<img alt=x src='http://127.0.0.1:9/x.png'>",
    "overflow": "<div style='width: 700px; height: 3px'></div>",
    "anchor": "<a href='#there'>there</a>",
    "wordless": "<div role=img>x</div>",
}


@pytest.mark.parametrize("what", BAD)
def test_the_checker_sees_what_is_wrong(browser, tmp_path, what):
    path = tmp_path / "bad.html"
    path.write_text(f"<!DOCTYPE html><meta name=viewport content='width=device-width'><p>words</p>{BAD[what]}")
    with pytest.raises(AssertionError):
        browser.visit(path, PHONE).check()


def test_the_checker_lets_a_good_page_pass(browser, tmp_path):
    path = tmp_path / "good.html"
    scrolled = "<div style='overflow-x: auto'><div style='width: 2000px; height: 2px'></div></div><a href='#p'>p</a>"
    path.write_text(f"<!DOCTYPE html><meta name=viewport content='width=device-width'><p id=p>words</p>{scrolled}")
    for size in SIZES.values():
        browser.visit(path, size).check()
