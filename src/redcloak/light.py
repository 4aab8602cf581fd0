"""Modules read without what they are slow to import: for planning, which needs their settings and no arithmetic.

A module's own source is executed with an import statement that puts placeholders in the place of torch and its kin,
and that reads the modules of this package which need them in the same way. Classes, constants and settings come out
as they are; whatever would compute meets a placeholder. Where a module does not bear that, it is imported in full.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from redcloak.errors import UserError

HEAVY = frozenset({"torch", "diffusers", "transformers", "peft", "accelerate", "cv2", "spandrel", "kornia", "deepinv"})
PACKAGE = "redcloak"
SUFFIX = "~light"  # of the name under which a module that was read so is kept


class _Placeholder(type):
    """A class that stands for a module, a class, a function or a decorator, and gives another of itself."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _placeholder(name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else _placeholder(cls.__name__)

    def __getitem__(cls, item: object) -> Any:
        return _placeholder(cls.__name__)

    def __iter__(cls) -> Any:  # else Python would go on asking __getitem__ for ever
        raise TypeError(f"{cls.__name__} is a placeholder, which holds nothing")

    __truediv__ = __mul__ = __add__ = __sub__ = __getitem__


def _placeholder(name: str) -> Any:
    return _Placeholder(name, (), {})


def module(name: str) -> ModuleType:
    """A module of this package by its full name, read lightly where it is not imported yet.

    Whatever was computed from it must not depend on how it was read; nothing in it may be called but to describe it.
    """
    if name in sys.modules or not name.startswith(f"{PACKAGE}.") or not is_heavy(name):
        return importlib.import_module(name)
    if (found := sys.modules.get(name + SUFFIX)) is not None:
        return found
    try:
        return _read(name)
    except UserError:
        raise
    except Exception:  # it computes while it is imported
        sys.modules.pop(name + SUFFIX, None)
        return importlib.import_module(name)


def _read(name: str) -> ModuleType:
    path = _source(name)
    made = ModuleType(name + SUFFIX)
    made.__file__ = str(path)
    made.__package__ = name.rpartition(".")[0]
    made.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
    sys.modules[made.__name__] = made  # where pydantic and dataclasses look for the names in annotations
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), made.__dict__)
    return made


def _import(
    name: str,
    globals: dict[str, Any] | None = None,
    locals: dict[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    root = name.partition(".")[0]
    if level == 0 and root in HEAVY and root not in sys.modules:
        if importlib.util.find_spec(root) is None:
            raise ModuleNotFoundError(f"No module named {root!r}", name=root)
        return _placeholder(name)
    if level == 0 and root == PACKAGE and fromlist:
        return _Names(name, fromlist)
    return importlib.__import__(name, globals, locals, fromlist or (), level)


class _Names:
    """What ``from NAME import ...`` takes its names from: submodules of a package are read lightly, too."""

    def __init__(self, name: str, wanted: Sequence[str]) -> None:
        source = module(name)
        for each in wanted:
            child = f"{name}.{each}"
            setattr(self, each, module(child) if _source_or_none(child) else getattr(source, each))


@lru_cache
def is_heavy(name: str) -> bool:
    """Whether importing a module of this package imports something slow."""
    path = _source_or_none(name)
    if path is None:
        return False
    for imported in _imports(ast.parse(path.read_text(encoding="utf-8")).body):
        root = imported.partition(".")[0]
        if root in HEAVY or (root == PACKAGE and imported != name and is_heavy(imported)):
            return True
    return False


def _imports(body: Sequence[ast.stmt]) -> Iterator[str]:
    """The modules that the statements at the top of a module import; those for type checkers are not among them."""
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module
            if statement.module.startswith(PACKAGE):
                yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.Try):
            yield from _imports(statement.body)


@lru_cache
def _source_or_none(name: str) -> Path | None:
    """The file of a module of this package, without importing it."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    base = Path(__file__).parent.joinpath(*parts[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _source(name: str) -> Path:
    path = _source_or_none(name)
    if path is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return path
