"""The parts of a diffusers folder: what must be there before a model is loaded, and what its configuration tells.

Nothing here imports torch: a folder is refused in a line, and at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from redcloak.errors import UserError

PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")  # which can run code when they are read: refused everywhere
# Any one file of each line: slow tokenizers have a vocabulary and merges, fast ones a single file.
NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "vae": (("config.json",), ("*.safetensors",)),
    "unet": (("config.json",), ("*.safetensors",)),
    "text_encoder": (("config.json",), ("*.safetensors",)),
    "tokenizer": (("tokenizer.json", "vocab.json", "spiece.model"),),
    "scheduler": (("scheduler_config.json",),),
}


def check_model(folder: Path) -> None:
    """Refuse a folder that is no Stable Diffusion of one text encoder, or lacks a part of it.

    Raises:
        UserError: a part or a file of it is absent, its weights are a pickle, or it is another kind of model.
    """
    if (folder / "text_encoder_2").is_dir():
        raise UserError(
            f"model {folder}: it has two text encoders, as Stable Diffusion XL has, which redcloak does not train yet; "
            "give a Stable Diffusion 1 or 2."
        )
    for part in PARTS:
        check_part(folder / part)


def check_part(folder: Path, kind: str | None = None) -> None:
    """Refuse a part that is absent or lacks a file, or whose weights are a pickle; ``kind`` is that of its name."""
    if not folder.is_dir():
        raise UserError(f"model {folder.parent}: it has no {folder.name}/, so it is not a diffusers folder.")
    pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLES]
    if pickles and not list(folder.glob("*.safetensors")):
        raise UserError(
            f"model {folder.parent}: {folder.name}/{pickles[0]} is a pickle, which can run code when it is read; "
            "convert it to safetensors first."
        )
    for choices in NEEDED.get(kind or folder.name, ()):
        if not any(path.is_file() for name in choices for path in folder.glob(name)):
            raise UserError(
                f"model {folder.parent}: {folder.name}/ has no {' or '.join(choices)}; copy the model again, whole."
            )


def resolution(folder: Path) -> int:
    """The side in pixels of the pictures that a diffusers folder was trained on."""
    unet, vae = (_config(folder / part) for part in ("unet", "vae"))
    try:
        return int(unet["sample_size"]) << (len(vae["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"model {folder}: unet/config.json says no sample_size; add a suite.yaml with a resolution."
        ) from None


def _config(part: Path) -> dict[str, Any]:
    path = part / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"model {part.parent}: {part.name}/{path.name} cannot be read: {error}.") from None
    if not isinstance(values, dict):
        raise UserError(f"model {part.parent}: {part.name}/{path.name} is no configuration; copy the model again.")
    return values
