"""The lower floors of the house know nothing of the upper ones."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "redcloak"
MAY_IMPORT = {
    "errors": set(),
    "api": {"prompts", "suite"},  # the suite for type checkers alone
    "runtime": {"api", "errors"},
    "stats": {"api"},
    "report": {"api", "config", "errors", "images", "parsing", "stats"},
    "images": {"decoding", "errors"},
}


def imported(part: str) -> set[str]:
    """The parts of this package that a part of it imports anywhere."""
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").is_file() else sorted((PACKAGE / part).rglob("*.py"))
    names = set()
    assert files, part
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("redcloak.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "redcloak":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("redcloak."):
            names.add(str(node.module).split(".")[1])
    return names - {part}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_lies_below(part):
    assert imported(part) <= MAY_IMPORT[part]


def test_methods_are_found_and_not_imported():
    """One file, one method: what runs them names none, so that a new one needs no list."""
    below = ("api", "backbone", "crafting", "runtime", "stages", "nodes", "arms", "audit", "steps", "bench", "report")
    assert not {part for part in below if "protect" in imported(part)}
