"""Cross-attention maps of a UNet, differentiable: which pixels look at which token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class _Recorder:
    """An attention processor that materialises the probabilities and keeps those of the wanted size."""

    def __init__(self, kept: list[Tensor], pixels: int) -> None:
        self.kept, self.pixels = kept, pixels

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        words = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(words), attn.to_v(words)
        query, key, value = (attn.head_to_batch_dim(part) for part in (query, key, value))
        weights = attn.get_attention_scores(query, key)
        if encoder_hidden_states is not None and weights.shape[1] == self.pixels:
            self.kept.append(weights.unflatten(0, (-1, attn.heads)).mean(1))
        states = attn.batch_to_head_dim(torch.bmm(weights, value))
        out: Tensor = attn.to_out[1](attn.to_out[0](states))
        return out


@contextmanager
def recorded(unet: Any, side: int) -> Iterator[list[Tensor]]:
    """Collect the cross-attention of every layer of ``side`` x ``side`` pixels, ``(N, side^2, L)``, mean over heads."""
    kept: list[Tensor] = []
    before, twice = unet.attn_processors, unet.is_gradient_checkpointing
    recorder = _Recorder(kept, side * side)
    unet.set_attn_processor({name: recorder for name in before})
    if twice:  # what is computed again in the backward pass would meet the other processors
        unet.disable_gradient_checkpointing()
    try:
        yield kept
    finally:
        unet.set_attn_processor(before)
        if twice:
            unet.enable_gradient_checkpointing()
