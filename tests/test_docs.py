"""The pages: their links lead somewhere, and the modules that they name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [path for path in sorted(ROOT.rglob("*.md")) if not any(part.startswith(".") for part in path.parts)]
NAMES = {"redcloak.json"}  # a file that commands leave beside their results


def anchors(page: Path) -> set[str]:
    """What headings of a page are called in links, by GitHub's rule."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    words = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).strip().lower() for title in titles)
    return {re.sub(r"[^\w\- ]", "", each).replace(" ", "-") for each in words}


def named(page: Path) -> set[str]:
    """The dotted names of this package that a page gives."""
    found = re.findall(r"\bredcloak(?:\.[a-z_][a-z_0-9]*)+", page.read_text(encoding="utf-8"))
    return set(found) - NAMES


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or stands in one."""
    place, words = ROOT / "src" / "redcloak", name.split(".")[1:]
    while words and (place / words[0]).is_dir():
        place = place / words.pop(0)
    if words and (module := place / f"{words[0]}.py").is_file():
        return len(words) == 1 or re.search(rf"\b{words[1]}\b", module.read_text(encoding="utf-8")) is not None
    return not words or re.search(rf"\b{words[0]}\b", (place / "__init__.py").read_text(encoding="utf-8")) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or there.suffix != ".md" or anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_pages_name_is_there(page):
    assert not {name for name in named(page) if not is_there(name)}
