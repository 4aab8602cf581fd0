"""The unconditional UNet of guided-diffusion as a diffusers folder.

``python -m redcloak.convert.guided_diffusion FILE OUT``, for the suite's ``pixel`` slot and above all for
``256x256_diffusion_uncond.pt``, the ImageNet model of the literature on purification. diffusers' ``UNet2DModel`` is
the same function: this maps every tensor once and refuses what is left over. The settings that no tensor tells are
those of that model: 64 channels a head in the legacy order, 32 groups, 1000 linear steps.

FILE is a pickle. It is read with ``torch.load(weights_only=True)``, which builds tensors and runs no code of the file;
OUT holds safetensors only. The architecture: Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis",
NeurIPS 2021.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from redcloak.convert.safetensors import read
from redcloak.errors import UserError

Kind = Literal["plain", "residual", "attention"]
RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


class Tensors(dict[str, Tensor]):
    """A checkpoint, whose tensors are taken one by one."""

    def __missing__(self, name: str) -> Tensor:
        raise UserError(f"the checkpoint has no {name}; it is not guided-diffusion's UNet.")

    def take(self, name: str) -> Tensor:
        """A tensor, which is then no longer there."""
        value = self[name]
        del self[name]
        return value


@dataclass(frozen=True)
class Shape:
    """What the tensors' names and sizes tell of the architecture."""

    channels: tuple[int, ...]
    attends: tuple[bool, ...]
    layers: int
    outputs: int

    @classmethod
    def of(cls, state: Tensors) -> Shape:
        """Read it off; a :class:`UserError` where it is not one that ``UNet2DModel`` has."""
        blocks = len({name.split(".")[1] for name in state if name.startswith("input_blocks.")})
        ups = (
            n
            for n in range(blocks)
            if f"output_blocks.{n}.{1 + _attends(state, 'output', n)}.emb_layers.1.weight" in state
        )
        turn = next(ups, -1) + 1  # the blocks of one level: its layers, and the way up or down
        if not turn or blocks % turn or "label_emb.weight" in state:
            raise UserError("the checkpoint is no unconditional UNet with resblock_updown; only such can be converted.")
        first = [1 + level * turn for level in range(blocks // turn)]
        channels = tuple(len(state[f"input_blocks.{n}.0.in_layers.2.weight"]) for n in first)
        if state["time_embed.0.weight"].shape[1] != channels[0]:
            raise UserError("the checkpoint's first level is not as wide as its time embedding; diffusers has no such.")
        if len(state["input_blocks.1.0.emb_layers.1.weight"]) != 2 * channels[0]:
            raise UserError("the checkpoint has no use_scale_shift_norm; only such can be converted.")
        attends = tuple(_attends(state, "input", n) for n in first)
        return cls(channels, attends, turn - 1, len(state["out.2.weight"]))

    def config(self, side: int, head: int) -> dict[str, Any]:
        """The arguments of the ``UNet2DModel`` that is the same function."""
        down = ("AttnDownBlock2D" if attends else "ResnetDownsampleBlock2D" for attends in self.attends)
        up = ("AttnUpBlock2D" if attends else "ResnetUpsampleBlock2D" for attends in reversed(self.attends))
        return {
            "sample_size": side,
            "out_channels": self.outputs,
            "block_out_channels": self.channels,
            "layers_per_block": self.layers,
            "down_block_types": tuple(down),
            "up_block_types": tuple(up),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "resnet_time_scale_shift": "scale_shift",
            "attention_head_dim": head,
            "attn_norm_num_groups": 32,
            "norm_num_groups": 32,
        }

    def parts(self) -> Iterator[tuple[Kind, str, str]]:
        """Every layer: its kind, its name in guided-diffusion, and in diffusers."""
        yield from (("plain", f"time_embed.{2 * n}", f"time_embedding.linear_{n + 1}") for n in range(2))
        yield "plain", "input_blocks.0.0", "conv_in"
        levels, turn = range(len(self.channels)), self.layers + 1
        for level in levels:
            for layer in range(self.layers):
                source = f"input_blocks.{1 + level * turn + layer}"
                yield from self._pair(level, source, f"down_blocks.{level}", layer)
            if level != levels[-1]:
                yield "residual", f"input_blocks.{(level + 1) * turn}.0", f"down_blocks.{level}.downsamplers.0"
        yield "residual", "middle_block.0", "mid_block.resnets.0"
        yield "attention", "middle_block.1", "mid_block.attentions.0"
        yield "residual", "middle_block.2", "mid_block.resnets.1"
        for place, level in enumerate(reversed(levels)):
            for layer in range(turn):
                yield from self._pair(level, f"output_blocks.{place * turn + layer}", f"up_blocks.{place}", layer)
            if level:
                source = f"output_blocks.{(place + 1) * turn - 1}.{1 + self.attends[level]}"
                yield "residual", source, f"up_blocks.{place}.upsamplers.0"
        yield "plain", "out.0", "conv_norm_out"
        yield "plain", "out.2", "conv_out"

    def _pair(self, level: int, source: str, target: str, layer: int) -> Iterator[tuple[Kind, str, str]]:
        yield "residual", f"{source}.0", f"{target}.resnets.{layer}"
        if self.attends[level]:
            yield "attention", f"{source}.1", f"{target}.attentions.{layer}"


def convert(state: Mapping[str, Tensor], head: int = 64) -> dict[str, Tensor]:
    """The tensors of guided-diffusion's UNet under diffusers' names, each used once.

    Raises:
        UserError: a tensor is missing, or one is left over.
    """
    left = Tensors(state)
    found: dict[str, Tensor] = {}
    for kind, source, target in Shape.of(left).parts():
        for place in ("weight", "bias"):
            found |= dict(_layer(left, kind, source, target, place, head))
    if left:
        raise UserError(f"the checkpoint has {len(left)} tensors too many, {min(left)} among them.")
    return found


def _layer(left: Tensors, kind: Kind, source: str, target: str, place: str, head: int) -> Iterator[tuple[str, Tensor]]:
    """Take one layer's weights or biases."""
    if kind == "plain":
        yield f"{target}.{place}", left.take(f"{source}.{place}")
    elif kind == "residual":
        for old, new in RESIDUAL.items():
            if old != "skip_connection" or f"{source}.{old}.{place}" in left:
                yield f"{target}.{new}.{place}", left.take(f"{source}.{old}.{place}")
    else:
        yield f"{target}.group_norm.{place}", left.take(f"{source}.norm.{place}")
        yield f"{target}.to_out.0.{place}", _flat(left.take(f"{source}.proj_out.{place}"))
        joint = _flat(left.take(f"{source}.qkv.{place}"))
        if len(joint) % (3 * head):
            raise UserError(f"head = {head}: {source} has {len(joint) // 3} channels; give a divisor of them.")
        # legacy order: of each head, its queries, its keys and its values
        thirds = joint.reshape(-1, 3, head, *joint.shape[1:]).unbind(1)
        for name, part in zip("qkv", thirds, strict=True):
            yield f"{target}.to_{name}.{place}", part.flatten(0, 1)


def _flat(value: Tensor) -> Tensor:
    """A convolution of width 1 as a matrix; a bias as it is."""
    return value.flatten(1) if value.dim() == 3 else value


def _attends(state: Mapping[str, Tensor], way: str, block: int) -> bool:
    return f"{way}_blocks.{block}.1.qkv.weight" in state


def write(state: Mapping[str, Tensor], out: Path, side: int, head: int) -> None:
    """Write a folder for the pixel slot: the UNet in the precision it has, and the schedule."""
    from diffusers import DDPMScheduler, UNet2DModel

    shape = Shape.of(Tensors(state))
    with torch.device("meta"):
        unet = UNet2DModel(**shape.config(side, head))
    unet.load_state_dict(convert(state, head), assign=True)
    unet.save_pretrained(out)
    variance = "learned_range" if shape.outputs == 6 else "fixed_small"
    DDPMScheduler(1000, 0.0001, 0.02, "linear", variance_type=variance).save_pretrained(out)


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m redcloak.convert.guided_diffusion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="the checkpoint, a .pt pickle; read with weights_only=True")
    parser.add_argument("out", type=Path, help="the folder to write, a new one")
    parser.add_argument("--side", type=int, default=256, help="side of the pictures that it was trained on (256)")
    parser.add_argument("--head", type=int, default=64, help="channels of an attention head (64)")
    given = parser.parse_args(arguments)
    try:
        if given.out.exists():
            raise UserError(f"{given.out} is there already; name a new folder.")
        write(read(given.file), given.out, given.side, given.head)
    except UserError as error:
        parser.error(str(error))
    sys.stdout.write(f"{given.out}: name this folder as the `pixel` slot of a suite.yaml.\n")


if __name__ == "__main__":
    main()
