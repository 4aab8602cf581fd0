"""The one way in which redcloak's pages are filled: everything escaped, and a name that is missing is an error."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def environment(package: str) -> Environment:
    """The templates of a subpackage of redcloak, such as ``bench``, and what ``report`` has for every page."""
    return Environment(
        loader=ChoiceLoader([PackageLoader("redcloak", name) for name in (package, "report")]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
