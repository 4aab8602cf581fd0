"""What made an artifact: keys in canonical JSON, and the sealed ``stage.json`` that lies in every result."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from redcloak.errors import UserError

SCHEMA: Literal[1] = 1
MANIFEST = "stage.json"
_quoted = json.encoder.encode_basestring_ascii
LIBRARIES = ("redcloak", "torch", "diffusers", "numpy")


def plain(value: Any, where: str = "value") -> Any:
    """A copy of ``value`` in JSON types: tuples become lists, -0.0 becomes 0.0; ``where`` names it in errors.

    Raises:
        UserError: a number is NaN or infinite.
        TypeError: a value or a mapping's key has no form in JSON.
    """
    if isinstance(value, Mapping):
        if odd := [name for name in value if not isinstance(name, str)]:
            raise TypeError(f"{where}: the name {odd[0]!r} is not a string")
        return {str(name): plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{where} = {value}: not a finite number; give one.")
        return float(value) + 0.0  # the sum is what turns -0.0 into 0.0
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"{where}: {type(value).__name__} has no form in JSON")


class Canonical(dict[str, Any]):
    """A configuration in JSON types with its canonical text, worked out once for all the nodes that share it.

    It must not be changed any more.
    """

    def __init__(self, fields: Mapping[str, Any], where: str = "value") -> None:
        super().__init__(plain(fields, where))
        self.text = _text(self)


def key_of(fields: Mapping[str, Any]) -> str:
    """The SHA-256 (64 hex digits) of ``fields`` in canonical JSON; the order of names does not matter.

    Numbers are kept as written: 1 and 1.0 give different keys. Raises as :func:`plain` does.
    """
    return hashlib.sha256(_text(plain(fields, "key")).encode()).hexdigest()


def _text(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


def artifact_key(stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The key of what a stage makes: of its name, version, configuration and the keys of its inputs."""
    text = config.text if isinstance(config, Canonical) else _text(plain(config, "key.config"))
    given = ",".join(f"{_quoted(name)}:{_quoted(inputs[name])}" for name in sorted(inputs))
    rest = f'"schema":{SCHEMA},"stage":{_quoted(stage)},"version":{version}'  # as `key_of` would write it, but faster
    return hashlib.sha256(f'{{"config":{text},"inputs":{{{given}}},{rest}}}'.encode()).hexdigest()


class Manifest(BaseModel):
    """The content of ``stage.json``: what made an artifact, from what, and what came out.

    ``files`` maps relative POSIX paths to SHA-256; ``created`` is UTC in ISO 8601; ``peak_memory_mb`` is the
    resident memory of the process in MiB, where known; ``notes`` is what the stage reports about its result,
    with ``None`` for what is not a finite number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    schema_version: Literal[1] = SCHEMA
    key: str
    stage: str
    version: int
    config: dict[str, JsonValue]
    inputs: dict[str, str]
    files: dict[str, str]
    libraries: dict[str, str]
    created: str
    wall_seconds: float
    peak_memory_mb: float | None
    notes: dict[str, JsonValue]


def read(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None where it is missing, unreadable or not what was written."""
    try:
        return parse((folder / MANIFEST).read_bytes())
    except OSError:
        return None


def parse(data: bytes) -> Manifest | None:
    """A manifest from the content of ``stage.json``, or None where it is not what was written."""
    try:
        fields = json.loads(data)
        seal = fields.pop("seal")
        return Manifest.model_validate(fields) if seal == key_of(fields) else None
    except (ValueError, KeyError, TypeError, AttributeError, UserError):
        return None


def write(folder: Path, manifest: Manifest) -> None:
    """Write ``stage.json`` with a hash over the rest of it: the seal."""
    fields = json.loads(manifest.model_dump_json())
    text = json.dumps({**fields, "seal": key_of(fields)}, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


@lru_cache
def libraries() -> dict[str, str]:
    """The versions of what can change numbers, read without importing any of it."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
