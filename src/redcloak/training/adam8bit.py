"""AdamW whose moments are kept in 8 bits: two bytes a parameter instead of eight.

Each block of 2048 values is divided by its largest one and rounded to the nearest of 256 levels. The levels are dense
where a moment's values are: seven decades, the larger ones cut finer ("dynamic tree quantization"). The arithmetic of a
step is that of AdamW in float32, one parameter after the other, so that the moments are never whole in memory.

Of the second moment the *root* is kept, which is what the step divides by: in seven decades of the moment itself the
small values of a block would round to zero, and their steps would be boundless.

Cite: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", ICLR 2022. License: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 2048
SMALL = 4096  # parameters with fewer values keep their moments in float32, as in the paper
DECADES = 7
CODES = ("mean_codes", "root_codes")


def levels(*, signed: bool) -> Tensor:
    """The 256 levels in [-1, 1], or in [0, 1], ascending: 0, 1, and in each decade the midpoints of equal parts.

    The decade ``10**-e`` has ``2**(6 - e)`` parts, and where no sign has to be kept twice as many.
    """
    return torch.tensor(_levels(signed), dtype=torch.float32)


@lru_cache
def _levels(signed: bool) -> list[float]:
    values = [0.0, 1.0]
    for exponent in range(DECADES):
        count = 2 ** (DECADES - 1 - exponent + (not signed))
        parts = [(0.1 + 0.9 * (index + 0.5) / count) * 10.0**-exponent for index in range(count)]
        values += [*parts, *([-part for part in parts] if signed else [])]
    return sorted(values)


def quantise(values: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Values of any shape -> the index of the nearest level of each (uint8, flat), and the scale of each block."""
    table = levels(signed=signed).to(values.device)
    blocks = F.pad(values.flatten(), (0, -values.numel() % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(1)
    edges = (table[1:] + table[:-1]) / 2
    codes = torch.bucketize(blocks / scale.clamp_min(1e-38).unsqueeze(1), edges, out_int32=True)
    return codes.flatten()[: values.numel()].to(torch.uint8), scale


def dequantise(codes: Tensor, scale: Tensor, shape: torch.Size, *, signed: bool) -> Tensor:
    """The inverse of :func:`quantise`, up to the rounding."""
    found = levels(signed=signed).to(codes.device)[codes.int()]
    blocks = F.pad(found, (0, -len(codes) % BLOCK)).view(-1, BLOCK) * scale.unsqueeze(1)
    return blocks.flatten()[: len(codes)].view(shape)


class Adam8bit(torch.optim.Optimizer):
    """AdamW (decoupled weight decay) with both moments in 8 bits. Nothing is random."""

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step on every parameter that has a gradient."""
        loss = closure() if closure else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.float(), group)
        return loss

    def _update(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        first, second = group["betas"]
        slot = self.state[parameter]
        slot["step"] = slot.get("step", torch.zeros(())) + 1
        count = float(slot["step"])
        mean, square = self._moments(parameter, slot)
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        root = square.sqrt_()
        _keep(slot, mean, root)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        size = (root / (1 - second**count) ** 0.5).add_(group["eps"])
        parameter.addcdiv_(mean, size, value=-group["lr"] / (1 - first**count))

    @staticmethod
    def _moments(parameter: nn.Parameter, slot: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The mean of the gradient and of its square, as they were kept."""
        if "mean" in slot:
            return slot["mean"].clone(), slot["root"].square()
        if "mean_codes" not in slot:
            zero = torch.zeros_like(parameter, dtype=torch.float32)
            return zero, zero.clone()
        mean = dequantise(slot["mean_codes"], slot["mean_scale"], parameter.shape, signed=True)
        root = dequantise(slot["root_codes"], slot["root_scale"], parameter.shape, signed=False)
        return mean, root.square_()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state; torch casts it to the type of the parameters, and the codes are bytes."""
        super().load_state_dict(state_dict)
        for slot in self.state.values():
            for name in CODES:
                if name in slot:
                    slot[name] = slot[name].to(torch.uint8)


def _keep(slot: dict[str, Tensor], mean: Tensor, root: Tensor) -> None:
    if mean.numel() < SMALL:
        slot["mean"], slot["root"] = mean, root.clone()
        return
    slot["mean_codes"], slot["mean_scale"] = quantise(mean, signed=True)
    slot["root_codes"], slot["root_scale"] = quantise(root, signed=False)
