"""Write trained weights into the package: fp16 safetensors, and a manifest of their SHA-256 sums."""

from __future__ import annotations

import hashlib
import json

from common import WEIGHTS
from safetensors.torch import save_file
from torch import nn


def save_module(model: nn.Module, name: str) -> None:
    """``suites/tiny/NAME/``: config.json and fp16 weights, in the layout that ``from_pretrained`` reads."""
    folder = WEIGHTS / name
    folder.mkdir(parents=True, exist_ok=True)
    half = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    if hasattr(model, "save_config"):
        model.save_config(folder)
        target = folder / "diffusion_pytorch_model.safetensors"
    else:
        model.config.save_pretrained(folder)
        target = folder / "model.safetensors"
    save_file({key: value.contiguous() for key, value in half.items()}, target, {"format": "pt"})
    manifest()


def manifest() -> None:
    """``suites/tiny/manifest.json``: the SHA-256 of every file of the suite, checked when it is loaded."""
    files = sorted(path for path in WEIGHTS.rglob("*") if path.is_file() and path.name not in _UNSIGNED)
    sums = {path.relative_to(WEIGHTS).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (WEIGHTS / "manifest.json").write_text(json.dumps(sums, indent=1, sort_keys=True) + "\n")


_UNSIGNED = {"manifest.json", "training.json", "README.md", "figures.json", "samples.png"}
