"""The small suite's own networks: the restorer, the x4 upscaler, CLIP's image tower and the quality model.

Each stands where a full-size suite has a public model (CodeFormer, the Stable Diffusion x4 upscaler, CLIP, LIQE) and is
reached through the same interface of :mod:`redcloak.suite`.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    """Two 3x3 convolutions on a residual path."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> the same shape."""
        change: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + change


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(count)))


class _Saved(nn.Module):
    """A network whose folder holds ``config.json`` and safetensors weights, as diffusers' models do."""

    config: dict[str, Any]

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Build from ``config.json`` and load fp16 or fp32 safetensors as float32."""
        from safetensors.torch import load_file

        with torch.device("meta"):  # weights that are about to be replaced need no draws of the global generator
            model = cls(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        weights = load_file(folder / "diffusion_pytorch_model.safetensors")
        model.load_state_dict({key: value.float() for key, value in weights.items()}, assign=True)
        return model.eval().requires_grad_(False)

    def save_config(self, folder: Path) -> None:
        """Write the arguments that rebuild the network."""
        (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n", encoding="utf-8")


class Restorer(_Saved):
    """Blind restoration in [0, 1]: a residual U-Net over 2x2 patches, told how far to trust its input."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.config = {"width": width, "depth": depth}
        self.enter = nn.Conv2d(13, width, 3, padding=1)
        self.fine_in, self.fine_out = _blocks(width, depth), _blocks(width, depth)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.coarse = _blocks(2 * width, 2 * depth)
        self.up = nn.Conv2d(2 * width, 4 * width, 1)
        self.leave = nn.Conv2d(width, 12, 3, padding=1)
        nn.init.zeros_(self.leave.weight)

    def forward(self, images: Tensor, fidelity: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` and fidelity ``(N,)`` in [0, 1] (1: keep the input) -> restored images."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % 4, 0, -height % 4), mode="replicate")
        patches = F.pixel_unshuffle(padded, 2)
        trust = fidelity.view(-1, 1, 1, 1).expand(-1, 1, *patches.shape[-2:])
        fine = self.fine_in(self.enter(torch.cat([patches, trust], 1)))
        coarse = F.pixel_shuffle(self.up(self.coarse(self.down(fine))), 2)
        residual = F.pixel_shuffle(self.leave(self.fine_out(fine + coarse)), 2)
        return (padded + residual)[..., :height, :width]


class Upscaler(_Saved):
    """Super-resolution x4 in [0, 1], told the level of the noise that was added to its input."""

    def __init__(self, width: int = 48, depth: int = 8) -> None:
        super().__init__()
        self.config = {"width": width, "depth": depth}
        self.enter = nn.Conv2d(4, width, 3, padding=1)
        self.body = _blocks(width, depth)
        self.first = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.second = nn.Conv2d(width, 4 * 24, 3, padding=1)
        self.leave = nn.Conv2d(24, 3, 3, padding=1)
        nn.init.zeros_(self.leave.weight)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` and the noise's standard deviation ``(N,)`` -> ``(N, 3, 4H, 4W)``."""
        level = noise.view(-1, 1, 1, 1).expand(-1, 1, *images.shape[-2:])
        features = self.body(self.enter(torch.cat([images, level], 1)))
        features = F.silu(F.pixel_shuffle(self.first(features), 2))
        features = F.silu(F.pixel_shuffle(self.second(features), 2))
        detail: Tensor = self.leave(features)
        return F.interpolate(images, scale_factor=4, mode="bicubic") + detail


class ImageTower(_Saved):
    """CLIP's image tower as a small ResNet, as in the RN models of the CLIP paper: 64x64 -> an embedding.

    A vision transformer of this size learned colours and, in the time we have, nothing of shape.
    """

    def __init__(self, width: int = 24, dimension: int = 128) -> None:
        super().__init__()
        self.config = {"width": width, "dimension": dimension}
        widths = (3, width, 2 * width, 4 * width, 6 * width)
        steps = [
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.SiLU(), _Block(b), nn.GroupNorm(8, b))
            for a, b in pairwise(widths)
        ]
        self.body = nn.Sequential(*steps)
        self.head = nn.Linear(6 * width * 16, dimension)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, 3, 64, 64)`` in [0, 1] -> ``(N, D)``, not normalised."""
        embedding: Tensor = self.head(F.silu(self.body(images * 2 - 1)).flatten(1))
        return embedding


class Quality(_Saved):
    """No-reference quality from 1 (ruined) to 5 (as photographed): strided convolutions, pooled."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.config = {"width": width}
        widths = (3, width, 2 * width, 3 * width, 4 * width)
        steps = [
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.SiLU(), _Block(b))
            for a, b in pairwise(widths)
        ]
        self.body = nn.Sequential(*steps)
        self.head = nn.Linear(8 * width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` in [0, 1] -> ``(N,)`` in [1, 5]."""
        features = self.body(images * 2 - 1)
        pooled = torch.cat([features.mean((2, 3)), features.std((2, 3))], 1)
        return 1 + 4 * torch.sigmoid(self.head(pooled)[:, 0])
