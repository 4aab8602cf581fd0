"""Named random streams: every stochastic step takes its own generator, derived from one seed.

``generators(seed, "pgd", n)`` gives one CPU generator per image, so that the noise of image 3 is the same
whether it is processed alone or in a batch of eight, on a CPU or on a GPU. Torch is imported only where a generator or
a tensor is made: planning derives seeds, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor


def derive(seed: int, *labels: object) -> int:
    """A 63-bit seed for the stream named by ``labels`` under ``seed`` (SHA-256, stable for ever)."""
    text = "/".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *labels: object) -> Generator:
    """One CPU generator for the stream named by ``labels``."""
    import torch

    return torch.Generator("cpu").manual_seed(derive(seed, *labels))


def generators(seed: int, label: object, count: int) -> list[Generator]:
    """One CPU generator per image."""
    return [generator(seed, label, index) for index in range(count)]


def randn(like: Tensor, streams: Sequence[Generator]) -> Tensor:
    """Standard normal noise of the shape of ``like``, row ``i`` from ``streams[i]``."""
    import torch

    rows = [torch.randn(like.shape[1:], generator=stream) for stream in streams]
    return torch.stack(rows).to(like)


def rand(like: Tensor, streams: Sequence[Generator]) -> Tensor:
    """Uniform noise in [0, 1) of the shape of ``like``, row ``i`` from ``streams[i]``."""
    import torch

    rows = [torch.rand(like.shape[1:], generator=stream) for stream in streams]
    return torch.stack(rows).to(like)


def randint(high: int, streams: Sequence[Generator], low: int = 0) -> Tensor:
    """One integer in [low, high) per stream: ``(N,)`` int64."""
    import torch

    return torch.cat([torch.randint(low, high, (1,), generator=stream) for stream in streams])
