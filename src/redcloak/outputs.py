"""Output folders of single steps: checked before work is spent, filled when it is done, never the input.

A finished folder holds a ``redcloak.json`` that says which verb made it, with what settings, and which files are its
own. Only those are ever replaced.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redcloak import __version__
from redcloak.errors import UserError
from redcloak.images import check_writable

RECORD = "redcloak.json"
AUDITED = ("audit.yaml", "store")


@contextmanager
def workspace(out: Path, verb: str, inputs: Iterable[str | Path], *, force: bool = False) -> Iterator[Path]:
    """Check that the folder ``out`` may be written, and lend a hidden folder beside it that is deleted at the end.

    ``force`` allows to add to a folder that something else has filled.

    Raises:
        UserError: ``out`` is a file, cannot be written, is or holds an input, or was filled by something else.
    """
    check_free(out, inputs)
    if out.is_dir() and any(out.iterdir()) and not force and read_record(out).get("verb") != verb:
        raise UserError(
            f"--out {str(out)!r}: the folder is not empty and `redcloak {verb}` did not write it; "
            "choose another, or add --force to write into it."
        )
    check_writable(out if out.is_dir() else out.parent)
    # Beside the target, so that the result can be renamed into place; private, as these are people's photos.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def check_audit(out: Path, inputs: Iterable[str | None], force: bool) -> None:
    """The same question for an audit, which fills its folder bit by bit and goes on with one that it has begun."""
    check_free(out, [given for given in inputs if given])
    if out.is_dir() and any(out.iterdir()) and not force and not any((out / name).exists() for name in AUDITED):
        raise UserError(
            f"--out {str(out)!r}: the folder is not empty and holds no audit; choose another, or add --force."
        )


def check_free(out: Path, inputs: Iterable[str | Path]) -> None:
    """Raise a :class:`UserError` where a file is in the way of ``out``, or ``out`` is or holds one of the inputs."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {str(out)!r}: a file is in the way; choose a folder.")
    target = out.resolve()
    for given in inputs:
        if Path(given).resolve().is_relative_to(target):
            raise UserError(f"--out {str(out)!r}: it is or holds the input {str(given)!r}; choose another folder.")


def deliver(source: Path, out: Path, verb: str, facts: Mapping[str, Any]) -> None:
    """Move a finished folder to ``out`` with a record of how it was made; files of an older run of it give way.

    Raises:
        UserError: the disk is full, or ``out`` was taken meanwhile.
    """
    files = sorted(path.name for path in source.iterdir())
    record = {
        "redcloak": __version__,
        "verb": verb,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
        **facts,
    }
    try:
        (source / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if not out.exists():
            source.rename(out)
            return
        for name in {*_own_files(out), *files}:
            _remove(out / name)
        for name in (*files, RECORD):  # the record last: it vouches for the rest
            (source / name).replace(out / name)
    except OSError as error:
        raise UserError(f"--out {str(out)!r} cannot be written: {error.strerror}; make room or change it.") from None


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a finished output folder; empty where there is none."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _own_files(folder: Path) -> list[str]:
    """What the record names as its own, as far as it lies directly in the folder."""
    names = read_record(folder).get("files", [])
    return [name for name in names if isinstance(name, str) and name == Path(name).name and name not in ("", "..")]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
