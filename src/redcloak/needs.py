"""What a stage takes while it runs, by its methods' metadata and the suite's weights: before anything was measured.

Nothing heavy is imported; a matrix asks for every node.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from redcloak import registry
from redcloak.api import Kind, Method, Needs
from redcloak.parts import PARTS
from redcloak.runtime.contents import weight
from redcloak.suite import Suite

LIBRARIES_MB = 600.0  # of a process that has loaded torch, diffusers and transformers, and nothing else
TRAINING = 4  # times the weights: they, their gradients and Adam's two moments
BACKBONE = Method("the backbone alone", cite="", needs=("backbone",))


@lru_cache(maxsize=4096)
def takes(device: str, weights: int, kind: Kind | None, names: tuple[str, ...]) -> Needs:
    """What these methods take on a device, with a backbone of so many bytes (0: not known); the backbone alone without.

    The memory is of the host: where a method states none and uses a model, that of the libraries and of the weights,
    four times where they are trained here.
    """
    methods = [registry.describe(kind, name).method for name in names] if kind else [BACKBONE]
    needs = Needs.together(method.takes(device) for method in methods)
    models = {slot for method in methods for slot in method.needs}
    if needs.memory_mb or not models:
        return needs
    trained = kind in ("personalize", "protect") and "backbone" in models and not device.startswith("cuda")
    return replace(needs, memory_mb=LIBRARIES_MB + weights * (TRAINING if trained else 1) / 2**20)


def backbone_bytes(suite: Suite) -> int:
    """The size of a suite's backbone; 0 where it is not in the suite's own folder."""
    return _bytes(suite.folder / suite.spec.backbone)


@lru_cache(maxsize=32)
def _bytes(model: Path) -> int:
    """Weighed once: a matrix makes a builder for every subject, budget and trainer."""
    return sum(weight(model / part) for part in PARTS)
