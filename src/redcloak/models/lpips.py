"""LPIPS without torchvision: its two trunks, its linear weights, its distance. Weights from a file of yours.

Neither trunk lies on a package registry. ``python -m redcloak.convert.lpips`` puts torchvision's ImageNet weights and
the linear weights of the package ``lpips`` into the one safetensors file that is read here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from redcloak.errors import UserError

Net = Literal["alex", "vgg"]
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # channels; 0: halve
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}  # the rectifiers that are looked at


class Lpips(nn.Module):
    """Two batches in [0, 1] -> their distance ``(N,)``, differentiable.

    Cite: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, equation 1.
    """

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.features = nn.Sequential(*(_alex() if net == "alex" else _vgg()))
        self.taps = TAPS[net]
        before = [self.features[tap - 1] for tap in self.taps]
        widths = [layer.out_channels for layer in before if isinstance(layer, nn.Conv2d)]
        self.heads = nn.ParameterList([nn.Parameter(torch.zeros(width)) for width in widths])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """As the class says; both of one size, of at least 64 pixels."""
        x, y = (_scaled(images * 2 - 1) for images in (a, b))
        total = torch.zeros(len(a), device=a.device)
        row = 0
        for place, layer in enumerate(self.features):
            x, y = layer(x), layer(y)
            if place == self.taps[row]:
                gap = (_unit(x) - _unit(y)).pow(2)
                total = total + (gap * self.heads[row][:, None, None]).sum(1).mean((1, 2))
                row += 1
            if row == len(self.taps):
                break
        return total


def _alex() -> list[nn.Module]:
    def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, kernel, stride, 2 if kernel > 3 else 1), nn.ReLU()]

    pool = nn.MaxPool2d(3, 2)
    deep = [*conv(192, 384, 3), *conv(384, 256, 3), *conv(256, 256, 3)]
    return [*conv(3, 64, 11, 4), pool, *conv(64, 192, 5), pool, *deep]


def _vgg() -> list[nn.Module]:
    layers: list[nn.Module] = []
    inputs = 3
    for width in VGG:
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2, 2)]
        inputs = width or inputs
    return layers


def _scaled(images: Tensor) -> Tensor:
    shift, scale = (torch.tensor(values, device=images.device)[:, None, None] for values in (SHIFT, SCALE))
    return (images - shift) / scale


def _unit(features: Tensor) -> Tensor:
    return features / (features.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)


def load(path: Path, device: str = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """The network of a safetensors file, frozen; which of the two it is, its tensors tell.

    Raises:
        UserError: the file is absent, damaged, or holds another network.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(
            f"weights = {str(path)!r}: {error.strerror}; give the file of redcloak.convert.lpips."
        ) from None
    return _load(path, device, (state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=2)
def _load(path: Path, device: str, state: tuple[int, int]) -> Lpips:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights = {str(path)!r}: not a whole safetensors file ({error}).") from None
    net: Net = "vgg" if "features.2.weight" in weights else "alex"
    with torch.device("meta"):
        model = Lpips(net)
    try:
        model.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    except RuntimeError:
        raise UserError(f"weights = {str(path)!r}: not LPIPS's; make it with redcloak.convert.lpips.") from None
    return model.eval().requires_grad_(False).to(device)
