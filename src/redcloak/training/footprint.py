"""What training takes in memory, worked out before a weight is read: the trainer itself runs, on tensors without data.

    for way, peak in footprint(suite, "dreambooth").items():
        print(way, peak / 2**30, "GiB")

The model is built from its configurations alone, in torch's fake mode, where a tensor has a shape and a type and no
memory, and two steps are run, by when the optimizer has its moments. Every storage that comes to be and goes is
counted. So nothing here knows what a trainer does: gradient checkpointing, half precision, 8-bit moments, what is
frozen and what is cached count as what they are. Not counted: the libraries (:data:`LIBRARIES`), the scratch space of
single operations, and a part in half precision while it is saved.
"""

from __future__ import annotations

import json
import math
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from redcloak.api import Context, Machine
from redcloak.backbone import Backbone, quietly
from redcloak.memory import SHARE, TYPES, computing_in
from redcloak.needs import LIBRARIES_MB
from redcloak.registry import load
from redcloak.suite import SUITES, Suite

LIBRARIES = LIBRARIES_MB * 2**20  # bytes
STEPS = 2
PHOTOS, CLASSES = 4, 16
KINDS = ("vae", "unet", "text_encoder")
Way = tuple[Machine, dict[str, Any]]
WAYS: dict[str, Way] = {
    "as it is": (Machine(), {}),
    "memory=low": (Machine(memory="low"), {}),
    "+ precision=bf16": (Machine(memory="low", precision="bf16"), {}),
    "+ optimizer=adam8bit": (Machine(memory="low", precision="bf16"), {"optimizer": "adam8bit"}),
}


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every storage that an operation makes, and the most that lived at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.peak = 0, 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation; where it would read a value out of a tensor, the value is one."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].dtype.is_floating_point else 1
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return found

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.live -= self.sizes.pop(key)


def footprint(
    suite: Suite, trainer: str, ways: Mapping[str, Way] | None = None, room: float = math.inf
) -> dict[str, int]:
    """Way of training -> the most bytes of tensors that live at once, the model among them.

    Args:
        suite: whose backbone is trained, at the suite's resolution; only its configurations are read.
        trainer: a method of ``personalize``, with its own settings and the suite's.
        ways: name -> the machine's policy (but for its device) and more settings of the trainer.
        room: bytes of memory where it would run; what ``memory=auto`` lays aside there is not counted.

    Raises:
        UserError: the suite's configurations are not on this machine, or it or this trainer cannot be run so.
    """
    entry, shapes, found = load("personalize", trainer), configurations(suite), {}
    for name, (machine, given) in (ways or WAYS).items():
        config = entry.configure(**suite.settings(trainer, given) | {"steps": STEPS})
        with _counting() as counted:
            backbone = _backbone(shapes, machine)
            _train(backbone, suite.spec.resolution, entry.function, config, room)
        found[name] = counted.peak
    return found


def configurations(suite: Suite) -> dict[str, dict[str, Any]]:
    """The configurations of the parts: what a suite carries in ``shape.json``, or what lies beside its weights."""
    carried = suite.folder / "shape.json"
    if carried.is_file():
        shapes: dict[str, dict[str, Any]] = json.loads(carried.read_text(encoding="utf-8"))
        return shapes
    folder = suite.backbone_folder()
    return {part: json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in KINDS}


@contextmanager
def _counting() -> Iterator[Counted]:
    stay = patch.object(nn.Module, "to", lambda module, *_, **__: module)  # torch cannot move a module of fake tensors
    with warnings.catch_warnings(), quietly(), stay, FakeTensorMode(), Counted() as counted:
        warnings.simplefilter("ignore")
        yield counted


def _backbone(shapes: Mapping[str, Mapping[str, Any]], machine: Machine) -> Backbone:
    """A backbone of these shapes; its tokenizer is the small suite's, as long as the text encoder reads."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    dtype = TYPES[machine.precision]
    with _default(dtype):
        vae = AutoencoderKL.from_config(dict(shapes["vae"]))
        unet = UNet2DConditionModel.from_config(dict(shapes["unet"]))
        text = CLIPTextModel(CLIPTextConfig(**shapes["text_encoder"]))
    for module in (vae, unet, text):
        module.eval().requires_grad_(False)
        if dtype != torch.float32:
            computing_in(module, dtype)
    length = text.config.max_position_embeddings
    tokenizer = CLIPTokenizer.from_pretrained(SUITES / "tiny" / "tokenizer", model_max_length=length)
    return Backbone(
        vae, unet, text, tokenizer, DDIMScheduler(), torch.device("cpu"), dtype=dtype, memory=machine.memory
    )


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """New parameters have this type: fake ones cannot be cast in place."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _train(backbone: Backbone, side: int, function: Any, config: Any, room: float) -> None:
    """What a run of the trainer does between the loan of the backbone and its return."""
    changed = config.changes(backbone) if hasattr(config, "changes") else backbone.trainable()
    size = sum(value.numel() * value.element_size() for value in changed)
    aside = backbone.memory == "low" or size > room / SHARE
    kept = [] if aside else [value.clone() for value in changed]  # to put back
    for value in changed:
        value.data = value.data.float()
    suite: Any = SimpleNamespace(backbone=backbone)
    context = Context(suite, class_images=torch.empty(CLASSES, 3, side, side))
    function(torch.empty(PHOTOS, 3, side, side), config, context, torch.Generator())
    del kept
