"""``python -m redcloak.convert.safetensors FILE OUT``: a pickled checkpoint as a safetensors file.

The pickle is read by ``torch.load(weights_only=True)``, which refuses whatever could run code.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redcloak.convert.command import check_name, command, save
from redcloak.errors import UserError

# Where training code puts the weights inside a checkpoint, the averaged ones first.
KEYS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net")


def convert(source: Path, out: Path) -> int:
    """Write the tensors of ``source`` to ``out``: how many there were.

    Raises:
        UserError: the source cannot be read, is no checkpoint of plain tensors, or ``out`` is no safetensors file.
    """
    check_name(out)
    tensors = read(source)
    save(tensors, out, {"format": "pt"})
    return len(tensors)


def read(source: Path) -> dict[str, Any]:
    """The tensors of a pickled checkpoint by name.

    Raises:
        UserError: the source cannot be read, or is no checkpoint of plain tensors.
    """
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # of pickles that torch did not write, which then fail or do not
            found = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"FILE = {str(source)!r} cannot be read: {error.strerror}.") from None
    except Exception as error:  # the reader raises anything on what is no checkpoint, down to a KeyError
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise UserError(
            f"FILE = {str(source)!r} is no checkpoint of plain tensors, and was not run: {reason}"
        ) from None
    tensors = _tensors(found)
    if not tensors:
        raise UserError(f"FILE = {str(source)!r} holds no tensors by name.")
    return tensors


def _tensors(found: Any) -> dict[str, Any]:
    """The weights by name, taken out of the mappings around them; each in memory of its own, as the format wants it."""
    import torch

    while isinstance(found, Mapping):
        inner = next((found[key] for key in KEYS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    if not isinstance(found, Mapping):
        return {}
    return {str(key): value.contiguous().clone() for key, value in found.items() if isinstance(value, torch.Tensor)}


def main(arguments: Sequence[str]) -> int:
    """Convert, and say what was done: the exit status."""
    return command(convert, "redcloak.convert.safetensors FILE OUT", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
