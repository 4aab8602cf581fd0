"""Write docs/methods.md: every method with its docstring, settings, source and licence; and the table of scores.md."""

from __future__ import annotations

import inspect
from pathlib import Path

from redcloak import registry

DOCS = Path(__file__).parents[1] / "docs"
HEAD = "# Methods\n\nWritten by `./scripts/docs` from the methods' own docstrings; do not edit.\n"


def settings(entry: registry.Entry) -> str:
    """The table of a method's settings."""
    rows = [
        f"| `{name}` | `{field.default!r}` | {field.description or ''} |"
        for name, field in entry.config.model_fields.items()
    ]
    head = ["| setting | default | meaning |", "|---|---|---|"]
    return "\n".join([*head, *rows]) if rows else "No settings."


def scores() -> str:
    """The table of every score: what it is, which way is better, its range, and what it rests on."""
    rows = ["| score | metric | better | range | n | source | licence |", "|---|---|---|---|---|---|---|"]
    for name in registry.names("metrics"):
        method = registry.load("metrics", name).method
        for key, score in method.scores.items():
            extent = f"{score.low:g} to {score.high:g}"
            extent += f", {score.unit}" if score.unit not in ("", extent) else ""
            metric = f"`{name}`" + (", paired" if method.paired else "")
            source = (method.cite, method.license)
            cells = (f"`{key}`: {score.title}", metric, score.better, extent, score.minimum_n, *source)
            rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def between(page: str, name: str, text: str) -> str:
    """The page with what stands between the comments ``<!-- name`` and ``<!-- /name`` replaced."""
    head, mark, rest = page.partition(f"<!-- {name}")
    comment, _, rest = rest.partition("\n")
    _, end, tail = rest.partition(f"<!-- /{name}")
    return f"{head}{mark}{comment}\n{text}\n{end}{tail}"


def main() -> None:
    """Write the pages."""
    page = DOCS / "scores.md"
    page.write_text(between(page.read_text(encoding="utf-8"), "scores", scores()), encoding="utf-8")
    parts = [HEAD]
    for kind, title in registry.KINDS.items():
        parts.append(f"## {title.capitalize()}s\n")
        for name in registry.names(kind):
            entry = registry.load(kind, name)
            method = entry.method
            parts.append(f"### `{name}`: {method.title}\n\n{inspect.cleandoc(entry.doc)}\n\n{settings(entry)}\n")
            parts.append(f"Source: {method.cite} Licence: {method.license}. Version {method.version}.\n")
    (DOCS / "methods.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
