"""What this machine may use: cores, memory and GPUs, as affinity, containers and the environment allow.

Nothing heavy is imported for what a plan asks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True)
class Hardware:
    """Cores, MiB of memory (infinite where nobody can tell), and the GPUs by their index or UUID."""

    cores: int
    memory_mb: float
    gpus: tuple[str, ...] = ()

    @classmethod
    def here(cls) -> Hardware:
        """Of this machine, as far as this process may use it."""
        return cls(cores(), memory_mb(), gpus())


def cores(root: Path = ROOT) -> int:
    """The cores this process may use: its affinity, or less where its control group has a smaller quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    for folder in _groups(root):
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            if quota != "max":
                count = min(count, max(1, int(quota) // int(period)))
    return count


def memory_mb(root: Path = ROOT) -> float:
    """MiB of memory: the machine's, or less where the control group has a limit (Slurm and Kubernetes set one)."""
    limits = [float("inf")]
    with suppress(AttributeError, OSError, ValueError):  # not on Windows
        limits.append(float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    files = [folder / "memory.max" for folder in _groups(root)]
    for file in (*files, root / "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(float(file.read_text(encoding="ascii")))  # "max" is a ValueError: no limit
    return min(limits) / 2**20


def gpus(root: Path = ROOT) -> tuple[str, ...]:
    """The NVIDIA GPUs this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; by the driver's list without it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for part in visible.split(",") if (name := part.strip()) and name != "-1")
    driver = root / "proc/driver/nvidia/gpus"
    return tuple(str(index) for index in range(len(list(driver.iterdir())))) if driver.is_dir() else ()


def training_memory() -> tuple[str, float, bool]:
    """The first GPU that torch sees, else this machine; its GiB; and whether these hold the process, too."""
    import torch

    if torch.cuda.is_available():
        first = torch.cuda.get_device_properties(0)
        return first.name, first.total_memory / 2**30, False
    return "this machine", memory_mb() / 1024, True


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's control group (version 2), from the innermost to the root."""
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
        path = next((line[3:] for line in lines if line.startswith("0::")), "/")
        top = root / "sys/fs/cgroup"
        folder = top / path.strip("/")
        while folder != top:
            yield folder
            folder = folder.parent
        yield top
