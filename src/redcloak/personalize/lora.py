"""LoRA: train low-rank additions to the attention's projections, which are fused into the weights that are saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from redcloak.api import Context, Method, Subject
from redcloak.backbone import Backbone
from redcloak.training.fitting import PriorConfig, fit

METHOD = Method(
    title="LoRA on DreamBooth's loss",
    cite="Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.",
    stochastic=True,
    needs=("backbone",),
)
UNET = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")


class Config(PriorConfig):
    """The optimizer's budget, and the rank. Steps and rate: diffusers' example for DreamBooth; its rank is 4."""

    steps: int = Field(500, ge=1, description="optimizer steps")
    lr: float = Field(1e-4, gt=0, description="learning rate, constant")
    rank: int = Field(8, ge=1, le=512, description="rank of what is added to each projection")
    text_encoder: bool = Field(False, description="adapt the text encoder's attention too")

    def changes(self, backbone: Backbone) -> list[nn.Parameter]:
        """The weights of the projections, into which the additions are fused at the end."""
        layers = projections(backbone, text_encoder=self.text_encoder).values()
        return [value for layer in layers for name, value in layer.named_parameters() if name == "weight"]

    @contextmanager
    def learning(self, backbone: Backbone, subject: Subject, generator: Generator) -> Iterator[list[nn.Parameter]]:
        """The two factors of each addition."""
        with adapted(backbone, self, generator) as parameters:
            yield parameters


def lora(images: Tensor, config: Config, context: Context, generator: Generator) -> None:
    """Train ``W + B A`` in the place of each attention projection ``W``, and fuse the sum at the end.

    ``A (rank, in)`` begins uniform in +-1/sqrt(in) and ``B (out, rank)`` at zero; the loss is DreamBooth's on instance
    images ``(N, 3, H, W)`` in [0, 1]. The result is a whole model that knows nothing of adapters, so that plain
    diffusers, and whatever draws from a DreamBooth model, reads it. Random, from ``generator``: ``A``, then what
    DreamBooth draws.

    Cite: Hu et al., ICLR 2022, equation 3 with alpha = rank; Ruiz et al., CVPR 2023. License: Apache-2.0.
    """
    fit(images, config, context, generator)


def projections(backbone: Backbone, *, text_encoder: bool) -> dict[str, nn.Linear]:
    """The linear layers that are adapted, by name: those of the UNet, then those of the text encoder where asked."""
    parts = [("unet", UNET), *([("text_encoder", TEXT)] if text_encoder else [])]
    return {
        f"{part}.{name}": layer
        for part, ends in parts
        for name, layer in getattr(backbone, part).named_modules()
        if isinstance(layer, nn.Linear) and name.endswith(tuple(f".{end}" for end in ends))
    }


@contextmanager
def adapted(backbone: Backbone, config: Config, generator: Generator) -> Iterator[list[nn.Parameter]]:
    """Put adapters into the backbone and lend their parameters; fuse them where the block ends well, and take them out.

    The adapters are float32, whatever the backbone computes in.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = projections(backbone, text_encoder=config.text_encoder)
    parts = [backbone.unet, *([backbone.text_encoder] if config.text_encoder else [])]
    with torch.random.fork_rng(devices=[]):  # peft draws values of its own, which are overwritten
        for part, ends in zip(parts, (UNET, TEXT), strict=False):
            settings = LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=list(ends))
            inject_adapter_in_model(settings, part)
    layers = {name: _find(backbone, name) for name in names}
    try:
        yield [parameter for layer in layers.values() for parameter in _begin(layer, generator)]
        for layer in layers.values():
            layer.merge()
    finally:
        for name, layer in layers.items():
            parent, _, leaf = name.rpartition(".")
            setattr(_find(backbone, parent), leaf, layer.get_base_layer())
        for part in parts:
            del part.peft_config


def _find(backbone: Backbone, name: str) -> Any:
    part, _, inside = name.partition(".")
    return getattr(backbone, part).get_submodule(inside)


def _begin(layer: Any, generator: Generator) -> list[nn.Parameter]:
    """The two factors of a layer's addition, at their first values."""
    down, up = layer.lora_A["default"], layer.lora_B["default"]
    down.weight.data = first_factor(down.weight.shape, generator).to(down.weight.device)
    up.weight.data = torch.zeros_like(up.weight, dtype=torch.float32)
    return [down.weight.requires_grad_(False), up.weight.requires_grad_(False)]


def first_factor(shape: torch.Size, generator: Generator) -> Tensor:
    """``A`` as it begins, ``(rank, in)``: uniform in +-1/sqrt(in)."""
    return torch.rand(shape, generator=generator).mul(2).sub(1).div(shape[1] ** 0.5)
