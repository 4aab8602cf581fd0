"""The pages: their links lead somewhere, and the modules that they name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from redcloak.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "RESPONSIBLE_USE.md", "SECURITY.md")]
PAGES += [page for part in ("docs", "claims", "examples", "src") for page in sorted((ROOT / part).rglob("*.md"))]
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


def commands(page: Path) -> list[list[str]]:
    """The commands of redcloak that a page shows, as words, without comments."""
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"^ {4,}(?:\.venv/bin/)?(redcloak [^#\n]*)", text, re.MULTILINE)
    lines += re.findall(r"`(redcloak [a-z]+[^`]*)`", text)
    parts = (part.strip() for line in lines for part in re.split(r"&&|·|\s\|\s", line.replace("\n", " ")))
    return [part.split() for part in parts if part.startswith("redcloak ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_pages_show_have_these_verbs_and_options(page):
    for words in commands(page):
        verb, rest = typer.main.get_command(app), words[1:]
        while hasattr(verb, "commands") and rest and not rest[0].startswith("-"):
            verb = verb.commands.get(rest[0])
            assert verb, " ".join(words)
            rest = rest[1:]
        known = {option for parameter in verb.params for option in (*parameter.opts, *parameter.secondary_opts)}
        given = {re.split(r"[=\[]", word)[0].strip("[]") for word in rest if re.match(r"\[?--?[a-z]", word)}
        assert given <= known | {"--help", "--version"}, " ".join(words)
