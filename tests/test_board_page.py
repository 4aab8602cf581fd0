"""The leaderboard in a browser: whole on a desk and on a phone, sorted by a click, a cell opened by another."""

from __future__ import annotations

import pytest
from chromium import DESKTOP, PHONE, Chromium, find
from test_bench_board import crowd, made, matrix

from redcloak.bench.page import page

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
