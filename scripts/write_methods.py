"""Write docs/methods.md: every method with its docstring, settings, source and licence."""

from __future__ import annotations

import inspect
from pathlib import Path

from redcloak import registry

HEAD = "# Methods\n\nWritten by `./scripts/docs` from the methods' own docstrings; do not edit.\n"


def settings(entry: registry.Entry) -> str:
    """The table of a method's settings."""
    rows = [
        f"| `{name}` | `{field.default!r}` | {field.description or ''} |"
        for name, field in entry.config.model_fields.items()
    ]
    head = ["| setting | default | meaning |", "|---|---|---|"]
    return "\n".join([*head, *rows]) if rows else "No settings."


def main() -> None:
    """Write the page."""
    parts = [HEAD]
    for kind, title in registry.KINDS.items():
        parts.append(f"## {title.capitalize()}s\n")
        for name in registry.names(kind):
            entry = registry.load(kind, name)
            method = entry.method
            parts.append(f"### `{name}`: {method.title}\n\n{inspect.cleandoc(entry.doc)}\n\n{settings(entry)}\n")
            parts.append(f"Source: {method.cite} Licence: {method.license}. Version {method.version}.\n")
    Path(__file__).parents[1].joinpath("docs", "methods.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
