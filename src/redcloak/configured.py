"""What methods ask for in the settings they were given: models of the suite, and prompts. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Iterable

from redcloak import registry
from redcloak.api import Kind
from redcloak.config import Choice, MethodConfig
from redcloak.suite import Suite


def configured(suite: Suite, kind: Kind, choice: Choice) -> tuple[registry.Entry, MethodConfig]:
    """A method and its settings: the suite's defaults, overridden by those that were given.

    Raises:
        UserError: no such method, or a wrong setting.
    """
    entry = registry.describe(kind, choice.name)
    return entry, entry.configure(**suite.settings(choice.name, choice.settings))


def needs(suite: Suite, methods: Iterable[tuple[Kind, Choice]]) -> tuple[str, ...]:
    """The slots of the suite that methods use, each once; ``faces`` where any score looks at faces."""
    found = (configured(suite, kind, choice) for kind, choice in methods)
    return tuple(dict.fromkeys(slot for entry, settings in found for slot in entry.needs(settings)))


def templates(suite: Suite, trainer: Choice) -> tuple[str, ...]:
    """The instance prompts of a trainer, with ``{subject}`` in them; of one that has none of its own, none."""
    found: tuple[str, ...] = getattr(configured(suite, "personalize", trainer)[1], "templates", ())
    return found
