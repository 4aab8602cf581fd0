"""The one way in which redcloak's pages are filled: everything escaped, and a name that is missing is an error."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment(package: str) -> Environment:
    """The templates of a subpackage of redcloak, such as ``report``."""
    return Environment(
        loader=PackageLoader("redcloak", package),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
