"""What keeps a long computation inside the memory there is: precision, and values laid aside while nobody needs them.

Adam's two moments, a snapshot and the gradients are four times the model; what waits for its turn need not lie beside
it. Laying aside never changes a value.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from redcloak.api import Machine, Policy

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LOSS_SCALE = 1024.0  # keeps gradients in the range of fp16, whose smallest number is 6e-8; a power of two, so exact
SHARE = 8  # "auto" lays aside what takes more than this part of the free memory
AT_ONCE, PIXELS = 16, 2**20  # pictures that go through a model together: 16 of up to 256 pixels a side, 4 of 512
DISK = Path("/var/tmp")  # by convention on disk, where /tmp may be memory


class Aside:
    """Values of some tensors as they are now: a copy beside them, or in host memory, or in a nameless file.

    ``auto`` copies where the values take at most an eighth of the free memory, else it puts them aside: from a GPU to
    the host, from the host to disk. ``low`` always puts them aside. A full disk means a copy after all.
    """

    def __init__(self, tensors: Sequence[Tensor], policy: Policy = "auto") -> None:
        self.values: list[Tensor] = []
        self.file: BinaryIO | None = None
        if not must_park(tensors, policy):
            self.values = [tensor.detach().clone() for tensor in tensors]
        elif tensors[0].device.type != "cpu" or not self._to_disk(tensors):
            self.values = [tensor.detach().to("cpu", copy=True) for tensor in tensors]

    def _to_disk(self, tensors: Sequence[Tensor]) -> bool:
        file = tempfile.TemporaryFile(dir=DISK if DISK.is_dir() else None)  # noqa: SIM115 - lives as long as this
        try:
            for tensor in tensors:
                file.write(_bytes(tensor.detach().contiguous()))
        except OSError:
            file.close()
            return False
        self.file = file
        weakref.finalize(self, file.close)
        return True

    def restore(self, tensors: Sequence[Tensor]) -> None:
        """Copy the values back into the tensors, in place, one after another."""
        with torch.no_grad():
            if self.file:
                self.file.seek(0)
                for tensor in tensors:
                    value = torch.empty(tensor.shape, dtype=tensor.dtype)
                    self.file.readinto(_bytes(value))  # type: ignore[attr-defined]
                    tensor.copy_(value)
            else:
                for tensor, value in zip(tensors, self.values, strict=True):
                    tensor.copy_(value)


def must_park(tensors: Sequence[Tensor], policy: Policy) -> bool:
    """Whether a copy of these tensors should not lie beside them."""
    if not tensors:
        return False
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return policy == "low" or size > free(tensors[0].device) / SHARE


def free(device: torch.device) -> float:
    """Bytes that are free where tensors of this device lie; infinite where nobody can tell."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # kept by torch for itself
        return float(torch.cuda.mem_get_info(device)[0] + unused)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return float("inf")


def at_once(side: int, other: int | None = None) -> int:
    """How many pictures of ``side`` x ``other`` pixels go through a model together where nothing else is asked."""
    return max(1, min(AT_ONCE, PIXELS // (side * (other or side))))


def loss_scale(dtype: torch.dtype) -> float:
    """What a loss is multiplied by before its gradient is taken, and the gradient divided by: 1 but in fp16."""
    return LOSS_SCALE if dtype == torch.float16 else 1.0


def exact(device: str) -> None:
    """Let float32 on an Nvidia GPU be float32, and convolutions choose kernels that give the same again.

    By default cuDNN rounds the factors of a convolution to 10 bits (TF32). Not every kernel of CUDA's is
    deterministic; and what computes in half precision has parts that do not.
    """
    if device.startswith("cuda"):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = True


def placed(module: Any, machine: Machine) -> Any:
    """A module on the machine's device, in its precision, frozen."""
    exact(machine.device)
    dtype = TYPES[machine.precision]
    # Not diffusers' own to(), which warns of half precision.
    nn.Module.to(module, torch.device(machine.device), dtype).eval().requires_grad_(False)
    if dtype != torch.float32:
        computing_in(module, dtype)
    return module


def computing_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Let a module compute in ``dtype`` and give float32, whatever its parameters are kept in.

    Parameters of that type meet inputs cast to it; float32 ones, those of a model that trains, run under autocast. A
    model of which a part trains gets both.
    """
    forward: Callable[..., Any] = module.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        kinds = {parameter.dtype for parameter in module.parameters()}
        if dtype in kinds:
            args = tuple(_cast(value, dtype) for value in args)
            kwargs = {name: _cast(value, dtype) for name, value in kwargs.items()}
        with torch.autocast(next(module.parameters()).device.type, dtype, enabled=kinds != {dtype}):
            found = forward(*args, **kwargs)
        return _cast(found, torch.float32)

    module.forward = run


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """A floating tensor, or those of a model's output, in another type."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        for name, part in list(value.items()):
            value[name] = _cast(part, dtype)
    return value


def _bytes(tensor: Tensor) -> memoryview:
    flat: Any = tensor.view(-1).view(torch.uint8).numpy()
    return memoryview(flat)
