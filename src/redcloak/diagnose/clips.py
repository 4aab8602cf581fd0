"""The CLIPs that a diagnosis looks with: a suite's own, and local folders of a transformers CLIP.

A result about "the" CLIP space is a result about one CLIP. OpenAI's ViT-B/32 is what the scores of this family use;
OpenCLIP's ViT-H/14 carries the text tower of Stable Diffusion 2.1.

Cite: Radford et al., ICML 2021; Cherti et al., "Reproducible scaling laws for contrastive language-image learning",
CVPR 2023 (OpenCLIP).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from redcloak.errors import UserError
from redcloak.models.clip import Clip
from redcloak.models.clip_folder import from_folder
from redcloak.suite import Suite


def clips(suite: Suite, folders: Sequence[Path] = ()) -> dict[str, Clip]:
    """The suite's CLIP, where it has one, and one from each folder, by the folder's name.

    Raises:
        UserError: there is none at all, one lacks a tower, two share a name, or as :func:`from_folder`.
    """
    found = {suite.name: suite.clip} if suite.spec.clip else {}
    for folder in folders:
        if folder.name in found:
            raise UserError(f"--clip {str(folder)!r}: there is a {folder.name!r} already; rename the folder.")
        found[folder.name] = from_folder(folder, suite.device)
    if not found:
        raise UserError(f"suite {suite.name}: it has no CLIP; give a local one by --clip FOLDER.")
    return found
