"""Cross-attention maps of a UNet, differentiable: which pixels look at which token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

LARGE = 32 * 32  # places beyond which nobody's map is worth its memory: a self-attention's grows with the square


class _Recorder:
    """An attention processor that materialises the probabilities and keeps those of the wanted size.

    What it does not keep goes by the processor that stood there ``before`` where it is large. Small self-attention is
    materialised, too, so that results do not depend on that processor's kernels.
    """

    def __init__(self, kept: list[Tensor], pixels: int, before: Any) -> None:
        self.kept, self.pixels, self.before = kept, pixels, before

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        places = hidden_states.shape[1]
        wanted = encoder_hidden_states is not None and places == self.pixels
        if not wanted and places > LARGE:
            passed: Tensor = self.before(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
            return passed
        words = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(words), attn.to_v(words)
        query, key, value = (attn.head_to_batch_dim(part) for part in (query, key, value))
        weights = attn.get_attention_scores(query, key)
        if wanted:
            self.kept.append(weights.unflatten(0, (-1, attn.heads)).mean(1))
        states = attn.batch_to_head_dim(torch.bmm(weights, value))
        out: Tensor = attn.to_out[1](attn.to_out[0](states))
        return out


@contextmanager
def recorded(unet: Any, side: int) -> Iterator[list[Tensor]]:
    """Collect the cross-attention of every layer of ``side`` x ``side`` pixels, ``(N, side^2, L)``, mean over heads."""
    kept: list[Tensor] = []
    before, twice = unet.attn_processors, unet.is_gradient_checkpointing
    unet.set_attn_processor({name: _Recorder(kept, side * side, old) for name, old in before.items()})
    if twice:  # what is computed again in the backward pass would meet the other processors
        unet.disable_gradient_checkpointing()
    try:
        yield kept
    finally:
        unet.set_attn_processor(before)
        if twice:
            unet.enable_gradient_checkpointing()
