"""``python -m redcloak.convert.lpips TRUNK HEADS OUT``: the two pickles of LPIPS as one safetensors file.

TRUNK is torchvision's ImageNet checkpoint (``alexnet-owt-7be5be79.pth``, ``vgg16-397923af.pth``), HEADS the linear
weights that the packages ``lpips`` and ``torchmetrics`` carry (``alex.pth``, ``vgg.pth``). Both are read with
``torch.load(weights_only=True)``, which runs no code of theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from redcloak.convert.command import check_name, command, save
from redcloak.convert.safetensors import read
from redcloak.errors import UserError


def convert(trunk: Path, heads: Path, out: Path) -> int:
    """Write ``out``: how many tensors it has.

    Raises:
        UserError: an input is no checkpoint of plain tensors, or the two do not make LPIPS.
    """
    from redcloak.models.lpips import load

    tensors = {name: value for name, value in read(trunk).items() if name.startswith("features.")}
    for name, value in read(heads).items():
        row = name.removeprefix("lin").partition(".")[0]
        tensors[f"heads.{row}"] = value.flatten().contiguous()
    check_name(out)
    save(tensors, out)
    try:
        load(out)
    except UserError:
        out.unlink()
        raise UserError(
            f"TRUNK = {str(trunk)!r} and HEADS = {str(heads)!r} do not make LPIPS: AlexNet or VGG-16."
        ) from None
    return len(tensors)


def main(arguments: Sequence[str]) -> int:
    """Convert, and say what was done: the exit status."""
    return command(convert, "redcloak.convert.lpips TRUNK HEADS OUT", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
