"""What the converters share: the command line, and the file that they write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from redcloak.errors import UserError


def command(convert: Callable[..., int], usage: str, arguments: Sequence[str]) -> int:
    """Convert the paths that ``usage`` names (``redcloak.convert.NAME FILE ... OUT``), and say it: the exit status."""
    paths = [Path(argument) for argument in arguments]
    if len(paths) != len(usage.split()) - 1:
        typer.echo(f"usage: python -m {usage}", err=True)
        return 2
    try:
        count = convert(*paths)
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    typer.echo(f"{count} tensors: {paths[-1]}")
    return 0


def check_name(out: Path) -> None:
    """Refuse a name that is not that of a safetensors file."""
    if out.suffix != ".safetensors":
        raise UserError(f"OUT = {str(out)!r}: name it .safetensors.")


def save(tensors: Mapping[str, Any], out: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; a :class:`UserError` says why it cannot be."""
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), out, dict(metadata) if metadata else None)
    except OSError as error:
        raise UserError(f"OUT = {str(out)!r} cannot be written: {error.strerror or error}.") from None
