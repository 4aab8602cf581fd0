"""The leaderboard in a browser: whole on a desk and on a phone, sorted by a click, a cell opened by another."""

from __future__ import annotations

from math import nan

import pytest
from chromium import DESKTOP, PHONE, Chromium, find
from test_bench_board import crowd, made, matrix

from redcloak.bench.page import page
from redcloak.stats import Estimate

__all__ = ["crowd", "made", "matrix"]
pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium here; .ci/run installs one")

FIRST = '[...document.querySelector("table").tBodies[0].rows].map(row => row.cells[0].innerText)'
CLICKS = f"""(() => {{
  const heads = document.querySelectorAll("th[data-sort]"), seen = [];
  for (const [head, times] of [[0, 1], [0, 1], [2, 1], [4, 2]]) {{
    for (let n = 0; n < times; n++) heads[head].click();
    seen.push({FIRST});
  }}
  document.querySelector("button[popovertarget]").click();
  return {{ seen, open: [...document.querySelectorAll(":popover-open")].map(each => each.innerText) }};
}})()"""


SURVIVES = f"""(() => {{
  const head = document.querySelectorAll("th[data-sort]")[2], seen = [];
  for (let n = 0; n < 2; n++) {{ head.click(); seen.push({FIRST}); }}
  return seen;
}})()"""


@pytest.fixture(scope="module")
def browser():
    with Chromium() as running:
        yield running


@pytest.fixture
def leaderboard(made, tmp_path):
    path = tmp_path / "leaderboard.html"
    path.write_text(page(made, [], lambda node: pytest.fail("nothing is read"), tmp_path, str(tmp_path / "store")))
    return path


def test_it_has_no_error_asks_for_nothing_and_fits(browser, leaderboard):
    for size in (DESKTOP, PHONE):
        visit = browser.visit(leaderboard, size)
        visit.check()
        assert "What survives the strongest red team" in visit.text
        assert "What ran" in visit.text
    assert visit.title == "own v1 · redcloak leaderboard"


def evaluate(browser, path, expression):
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    browser.call("Page.enable", session)
    browser.events.clear()
    browser.call("Page.navigate", session, url=path.resolve().as_uri())
    browser._wait("Page.loadEventFired")
    answer = browser.call("Runtime.evaluate", session, expression=expression, returnByValue=True)
    browser.call("Target.closeTarget", targetId=target)
    assert "exceptionDetails" not in answer, answer
    return answer["result"]["value"]


def test_a_heading_sorts_and_a_number_opens_its_cell(browser, leaderboard):
    found = evaluate(browser, leaderboard, CLICKS)
    down, up, survives, beyond = found["seen"]
    assert up == ["advdm", "aspl", "pid"]
    assert down == up[::-1]
    assert survives == ["advdm", "aspl", "pid"]
    assert len(beyond) == 3
    (opened,) = found["open"]
    assert "Identity still taken" in opened
    assert "redcloak bench run" in opened


def test_what_has_no_number_stays_last_whichever_way_rows_are_sorted(browser, made, tmp_path):
    def unscored(row):
        gone = {"survives": Estimate(nan, nan, nan, 0), "missing": ("jpeg (0 of 20)",)}
        return row.model_copy(update=gone if row.protection == "aspl" else {})

    path = tmp_path / "leaderboard.html"
    some = made.model_copy(update={"standings": tuple(map(unscored, made.standings))})
    path.write_text(page(some, [], lambda node: pytest.fail("nothing is read"), tmp_path, str(tmp_path / "store")))
    up, down = evaluate(browser, path, SURVIVES)
    assert [name.split()[0] for name in up] == ["pid", "advdm", "aspl"]
    assert [name.split()[0] for name in down] == ["advdm", "pid", "aspl"]
