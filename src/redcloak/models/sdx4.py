"""The Stable Diffusion x4 upscaler: diffusers' own pipeline, from a local folder or the hub's copy on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from redcloak.errors import UserError
from redcloak.images import file_digest
from redcloak.memory import at_once

HUB = "stabilityai/stable-diffusion-x4-upscaler"
# Not the single-file checkpoints and half-precision variants that lie beside them.
FILES = ("*.json", "*/*.json", "*/*.txt", "*/model.safetensors", "*/diffusion_pytorch_model.safetensors")
MULTIPLE = 8  # the UNet halves its input, which is the small picture itself, three times
PARTS = ("vae", "unet", "text_encoder")


def enlarge(
    pipeline: Any,
    images: Tensor,
    prompt: str,
    noise_level: int,
    generators: Sequence[Generator],
    steps: int = 75,
    guidance: float = 9.0,
    added: int | None = None,
) -> Tensor:
    """Images ``(N, 3, H, W)`` in [0, 1] -> ``(N, 3, 4H, 4W)``, each with its own noise; in single precision.

    So many go through the model together as what comes out has room for. ``added``: the level of the noise that is
    really added, where it is not the one that the model is told of.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
    rows, size = [], at_once(4 * padded.shape[-2], 4 * padded.shape[-1])
    with _adding(pipeline, added):
        for begin in range(0, len(padded), size):
            part, streams = padded[begin : begin + size], list(generators[begin : begin + size])
            large = pipeline(
                [prompt] * len(part),
                part,
                num_inference_steps=steps,
                guidance_scale=guidance,
                noise_level=noise_level,
                generator=streams,
                output_type="pt",
            ).images
            rows.append(large[..., : 4 * height, : 4 * width].clamp(0, 1).to(images))
    return torch.cat(rows)


@contextmanager
def _adding(pipeline: Any, level: int | None) -> Iterator[None]:
    """Let the pipeline add noise of another level than it tells its model."""
    if level is None:
        yield
        return
    scheduler, add = pipeline.low_res_scheduler, pipeline.low_res_scheduler.add_noise

    def add_noise(images: Tensor, noise: Tensor, told: Tensor) -> Tensor:
        noisy: Tensor = add(images, noise, torch.full_like(told, level)) if level else images
        return noisy

    scheduler.add_noise = add_noise
    try:
        yield
    finally:
        del scheduler.add_noise


def find(model: str, revision: str | None = None) -> Path:
    """The folder of the upscaler: ``model`` itself, or the copy of a hub id, downloaded where REDCLOAK_ONLINE=1.

    Raises:
        UserError: it is neither, or a part is missing or a pickle.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = _snapshot(model, revision)
    if not (folder / "model_index.json").is_file():
        raise UserError(f"model = {model!r}: no model_index.json, so it is not a diffusers folder of the x4 upscaler.")
    return folder


def fingerprint(model: str, revision: str | None = None) -> str:
    """What identifies the weights: the digests of a folder's files, or the hub's id and revision."""
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{revision or 'main'}"
    return " ".join(file_digest(path) for part in PARTS for path in sorted((folder / part).glob("*")) if path.is_file())


@lru_cache(maxsize=1)
def load(folder: Path, device: str) -> Any:
    """The pipeline of a folder, frozen.

    Raises:
        UserError: the folder holds another pipeline, or pickles.
    """
    from redcloak.backbone import quietly
    from redcloak.parts import check_part

    for part in PARTS:
        check_part(folder / part)
    with quietly():
        from diffusers import StableDiffusionUpscalePipeline

        pipeline = StableDiffusionUpscalePipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    for part in PARTS:
        getattr(pipeline, part).requires_grad_(False).eval()
    if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels + 3:
        raise UserError(f"model = {str(folder)!r}: its UNet is not that of an upscaler; give the x4 upscaler.")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, torch.float32)


def _snapshot(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    online = os.environ.get("REDCLOAK_ONLINE") == "1"
    try:
        return Path(
            snapshot_download(model, revision=revision, allow_patterns=list(FILES), local_files_only=not online)
        )
    except HFValidationError:
        raise UserError(f"model = {model!r}: neither a folder nor a hub id such as {HUB}.") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        cause = "cannot be downloaded" if online else "is not on this machine and the network is off"
        raise UserError(
            f"model = {model!r} {cause}: set REDCLOAK_ONLINE=1 to download it, or give a local diffusers folder."
        ) from None
