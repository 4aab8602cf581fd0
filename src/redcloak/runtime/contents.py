"""The files of an artifact: listed, hashed, flushed to the disk and weighed."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from redcloak.runtime.manifest import MANIFEST


def settle(folder: Path) -> dict[str, str]:
    """Flush the files of a folder to the disk and hash them: relative path -> SHA-256."""
    if (folder / MANIFEST).exists():
        raise ValueError(f"a stage may not write {MANIFEST}: the store does")
    files = files_of(folder)
    for path in files.values():
        flush(path)
    return {name: _digest(path) for name, path in files.items()}


def damage(folder: Path, expected: Mapping[str, str]) -> str | None:
    """The first file that is damaged, missing or foreign by the digests ``expected``, or None where all is well."""
    found = files_of(folder)
    for name in sorted(found.keys() | expected.keys()):
        if name not in found or name not in expected or _digest(found[name]) != expected[name]:
            return name
    return None


def files_of(folder: Path) -> dict[str, Path]:
    """Every file of an artifact but its manifest, by relative POSIX path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {path.relative_to(folder).as_posix(): path for path in paths}


def replace(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it there, so that others see the old one or the new one, whole."""
    beside = path.with_name(f"{path.name}~{os.getpid()}{secrets.token_hex(4)}")
    beside.write_bytes(data)
    beside.replace(path)


def weight(folder: Path) -> int:
    """The bytes of the files of a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def flush(path: Path) -> None:
    """Have the disk keep what was written of a file or a folder."""
    if sys.platform == "win32":  # it cannot flush what is open for reading, nor a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
