"""What people write and what files store, read and checked: every error names the field, the value and the fix."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from redcloak.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Validate ``values``; a :class:`UserError` names the field, the value, the reason and the nearest name."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "configuration"
        if first["type"] == "extra_forbidden":
            known = _fields_at(model, first["loc"][:-1])
            near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}."
            raise UserError(f"{where}: unknown setting {field!r}: {hint}") from None
        if first["type"] == "missing":
            raise UserError(f"{where}: {field} is missing; there is no default for it.") from None
        shown = repr(first.get("input"))[:80]
        raise UserError(f"{where}: {field} = {shown}: {first['msg']}.") from None


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The names of the fields of a model, or of the model that lies at ``path`` in it."""
    for part in path:
        info = model.model_fields.get(str(part))
        inner = info.annotation if info else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file, or a :class:`UserError` that names the line."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the configuration {path}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a configuration is a mapping of names to values, not {type(values).__name__}.")
    return values


def read_versioned(model: type[Model], path: Path, version: int, *, what: str = "", by: str, anew: str) -> Model:
    """A file that redcloak wrote as JSON, checked for the ``schema_version`` that this redcloak reads.

    Raises:
        UserError: it cannot be read (``by`` tells which command writes it), is of another version (``anew`` tells what
            to do), or a field is wrong.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {what}{path}: {error}; `{by}` writes it.") from None
    if not isinstance(values, dict) or values.get("schema_version") != version:
        raise UserError(f"{path}: schema_version is not {version}; {anew}.")
    return validate(model, values, str(path))


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """``["steps=10"]`` -> ``{"steps": 10}``; values are read as YAML scalars, none at all as the empty text."""
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"--set {pair!r}: write it as name=value.")
        try:
            settings[name.strip().replace("-", "_")] = yaml.safe_load(value) if value.strip() else ""
        except yaml.YAMLError as error:
            raise UserError(f"--set {pair}: the value is not YAML: {error}") from None
    return settings
