"""Methods by name: a method's name is its file's name, found without importing it.

``protect/aspl.py`` holds a ``Config``, a ``METHOD``, and a function ``aspl``: that is the whole registration.
Other distributions add methods by an entry point in the group ``redcloak.protect`` (``.purify``,
``.personalize``, ``.metrics``) whose value is a module of the same shape. A purifier that is not differentiable may
also hold a ``stand_in`` of the same arguments that is: a close likeness, for gradients alone.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from redcloak import light
from redcloak.api import Kind, Method, Score
from redcloak.errors import UserError, unknown

if TYPE_CHECKING:
    from redcloak.config import MethodConfig

KINDS: dict[Kind, str] = {
    "protect": "protection",
    "purify": "purifier",
    "personalize": "trainer",
    "metrics": "metric",
}


@dataclass(frozen=True)
class Entry:
    """A loaded method: its function, its configuration class and its metadata."""

    kind: Kind
    name: str
    function: Callable[..., Any]
    config: type[MethodConfig]
    method: Method
    stand_in: Callable[..., Any] | None = None

    @property
    def doc(self) -> str:
        """The docstring of the method's function: algorithm, source, shapes, randomness."""
        return self.function.__doc__ or ""

    def needs(self, config: MethodConfig) -> tuple[str, ...]:
        """The models of the suite that the method uses when it is configured so, its parts' among them."""
        own = config.slots()
        slots = list(self.method.needs if own is None else own)
        for kind, choice in config.parts():
            part = describe(kind, choice.name)
            slots += part.needs(part.configure(**choice.settings))
        return tuple(dict.fromkeys(slots))

    def faces(self, config: MethodConfig, own: str) -> tuple[str, ...]:
        """The face back ends that the method uses when it is configured so, in a suite that has ``own``."""
        return config.faces(own) if "faces" in self.method.needs else ()

    def configure(self, **settings: Any) -> MethodConfig:
        """Validate settings against the method's own configuration."""
        from redcloak.parsing import validate

        return validate(self.config, settings, f"{KINDS[self.kind]} {self.name!r}")


@lru_cache
def modules(kind: Kind) -> dict[str, str]:
    """Every method of one kind: name -> module path. Two methods of one name are an error."""
    folder = Path(__file__).parent / kind
    found = {
        path.stem: f"redcloak.{kind}.{path.stem}"
        for path in sorted(folder.glob("*.py"))
        if not path.stem.startswith("_")
    }
    for point in entry_points(group=f"redcloak.{kind}"):
        if point.name in found:
            raise UserError(f"{KINDS[kind]} {point.name!r} is defined by {found[point.name]} and {point.value}.")
        found[point.name] = point.value
    return found


def names(kind: Kind) -> list[str]:
    """The names of every method of one kind, sorted."""
    return sorted(modules(kind))


@lru_cache
def load(kind: Kind, name: str) -> Entry:
    """Import one method; an unknown name raises a :class:`UserError` that names the nearest ones."""
    return _entry(kind, name, importlib.import_module)


@lru_cache
def describe(kind: Kind, name: str) -> Entry:
    """The same of a method that is asked what it is and not run: nothing that is slow to import is imported."""
    return _entry(kind, name, light.module)


def scores(metrics: Iterable[str]) -> dict[str, Score]:
    """What each score of these metrics means, by its name."""
    return {key: score for name in metrics for key, score in describe("metrics", name).method.scores.items()}


def _entry(kind: Kind, name: str, read: Callable[[str], ModuleType]) -> Entry:
    if name not in modules(kind):
        raise unknown(KINDS[kind], name, modules(kind), f"See `redcloak list {KINDS[kind]}s`.")
    module = read(modules(kind)[name])
    return Entry(kind, name, getattr(module, name), module.Config, module.METHOD, getattr(module, "stand_in", None))


def summary(kind: Kind, name: str) -> str:
    """The first line of a method's module docstring, read from the source without importing it."""
    spec = importlib.util.find_spec(modules(kind)[name])
    if spec is None or spec.origin is None:
        return ""
    doc = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return doc.split("\n", 1)[0]
