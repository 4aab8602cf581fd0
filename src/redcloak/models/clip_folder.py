"""A local folder of a transformers CLIP as a :class:`redcloak.models.clip.Clip`: checked, read from safetensors only.

Cite: Radford et al., ICML 2021; Cherti et al., "Reproducible scaling laws for contrastive language-image learning",
CVPR 2023 (OpenCLIP).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from redcloak.errors import UserError
from redcloak.models.clip import Clip
from redcloak.parts import PICKLES

MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def from_folder(folder: Path, device: str = "cpu") -> Clip:
    """A whole CLIP as ``CLIPModel.save_pretrained`` writes it, with its tokenizer: safetensors only, nothing fetched.

    Size, mean and deviation of the pictures are those of ``preprocessor_config.json``, else CLIP's own. Of a
    picture that is not square the middle square counts.

    Raises:
        UserError: the folder is absent, is no CLIP, lacks its text tower or a part of it, or holds a pickle.
    """
    from transformers import CLIPModel, CLIPTokenizer

    from redcloak.backbone import quietly

    _check(folder)
    try:
        with quietly():
            model, report = CLIPModel.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # loaders raise anything on a damaged folder
        raise UserError(f"--clip {str(folder)!r} cannot be read: {type(error).__name__}: {error}.") from None
    absent = sorted(name for name in report["missing_keys"] if not name.endswith("position_ids"))
    if absent:
        raise _towerless(folder) if absent[0].startswith("text_") else _broken(folder, f"{absent[0]} is missing")
    # A tokenizer without a limit would pad to 10^30 words.
    tokenizer.model_max_length = min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
    model = model.float().eval().requires_grad_(False).to(device)
    mean, spread = _pictures(folder)
    image = _Image(model, mean, spread).to(device)
    return Clip(image, _Text(model), tokenizer, torch.device(device), int(model.config.vision_config.image_size))


class _Image(nn.Module):
    """The image tower with its preprocessing: pixels in [0, 1] -> the projected embedding."""

    mean: Tensor
    spread: Tensor

    def __init__(self, model: Any, mean: Sequence[float], spread: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("spread", torch.tensor(spread).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.model.vision_model(pixel_values=(images - self.mean) / self.spread).pooler_output
        projected: Tensor = self.model.visual_projection(pooled)
        return projected


class _Text(nn.Module):
    """The text tower, answering as ``CLIPTextModelWithProjection`` does."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        pooled = self.model.text_model(input_ids=tokens).pooler_output
        return SimpleNamespace(text_embeds=self.model.text_projection(pooled))


def _check(folder: Path) -> None:
    """Refuse what is no whole CLIP before anything is loaded."""
    if not folder.is_dir():
        raise UserError(f"--clip {str(folder)!r}: there is no such folder; give a local folder of a transformers CLIP.")
    config = _json(folder / "config.json")
    if not config:
        raise _broken(folder, "it has no config.json")
    kind = str(config.get("model_type", "unknown"))
    if kind == "clip_vision_model" or (kind == "clip" and "text_config" not in config):
        raise _towerless(folder)
    if kind != "clip":
        raise _broken(folder, f"it is a {kind!r} model")
    pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLES]
    if pickles and not list(folder.glob("*.safetensors")):
        raise _broken(folder, f"{pickles[0]} is a pickle, which can run code; convert it to safetensors")


def _pictures(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    stored = _json(folder / "preprocessor_config.json")
    return stored.get("image_mean", MEAN), stored.get("image_std", SPREAD)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _towerless(folder: Path) -> UserError:
    return UserError(
        f"--clip {str(folder)!r}: it has no text tower, so nothing can be compared with a prompt; "
        "give a whole CLIP, as CLIPModel.save_pretrained writes it."
    )


def _broken(folder: Path, reason: str) -> UserError:
    return UserError(f"--clip {str(folder)!r}: {reason}; give a whole CLIP, as CLIPModel.save_pretrained writes it.")
