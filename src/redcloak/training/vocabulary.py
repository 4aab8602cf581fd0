"""New words for a backbone: tokens of their own, whose embeddings train while every old one stays as it is.

    with backbone.borrowed(text_encoder=False):
        rows = add_words(backbone, {"sks": "person", "<noise-1>": "noise"})
        ... train ``rows``, a parameter (2, D) ...
        backbone.save(folder)  # plain diffusers reads it: added tokens, and a larger embedding

A word is matched as it stands in a prompt, between spaces and punctuation, before the byte pairs are. So an identifier
that was a rare token until now (``sks``) may become a word: prompts, those of plain diffusers too, stay the same.

Cite: Gal et al., "An Image is Worth One Word", ICLR 2023 (a new word); Kumari et al., "Multi-Concept Customization of
Text-to-Image Diffusion", CVPR 2023 (a new word beside weights that train).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from redcloak.errors import UserError

if TYPE_CHECKING:
    from redcloak.backbone import Backbone


class Words(nn.Module):
    """An embedding with rows added below: tokens from ``start`` on are the new ones.

    It stands in the place of the old embedding and stores as one (``weight``, all rows), so that a saved model knows
    nothing of it. The old rows are those of the old module itself, never copied.
    """

    def __init__(self, old: nn.Module, start: int, values: Tensor) -> None:
        super().__init__()
        self.old, self.start = old, start  # the old one first: a module's precision is that of its first parameter
        self.added = nn.Embedding(len(values), values.shape[1], _weight=values.detach().float().clone(), _freeze=True)
        self.register_state_dict_post_hook(_as_one)  # type: ignore[no-untyped-call]

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(N, L)`` -> embeddings ``(N, L, D)``."""
        old: Tensor = self.old(tokens.clamp(max=self.start - 1))
        new = self.added((tokens - self.start).clamp(min=0))
        return torch.where((tokens >= self.start).unsqueeze(-1), new.to(old.dtype), old)

    @property
    def weight(self) -> Tensor:
        """All rows, old and new, ``(V + K, D)``."""
        old: Any = self.old.weight
        return torch.cat([old, self.added.weight.to(old.dtype)])


def _as_one(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(module, Words)
    old, new = state.pop(f"{prefix}old.weight"), state.pop(f"{prefix}added.weight")
    state[f"{prefix}weight"] = torch.cat([old, new.to(old.dtype)])


def add_words(backbone: Backbone, words: Mapping[str, str]) -> nn.Parameter:
    """Teach a backbone new words, each beginning as the mean embedding of the text it is given with.

    Args:
        backbone: on loan (:meth:`Backbone.borrowed`), which is what takes the words away again; or inside
            :func:`restored`.
        words: word -> text to begin with, in the vocabulary so far; the word may stand in it itself.

    Returns:
        The new rows ``(K, D)``, float32, in the order of ``words``. They take no gradient until they are told to; the
        old rows are none of their business. Nothing is random. May be called again for more words.

    Raises:
        UserError: a word is empty, has a space in it, or is a token already; or a text has no tokens.
    """
    tokenizer = copy.deepcopy(backbone.tokenizer)
    old = backbone.text_encoder.get_input_embeddings()
    values = torch.stack([_beginning(backbone, word, text) for word, text in words.items()])
    for word in words:
        _add(tokenizer, word)
    start = len(backbone.tokenizer)
    larger = Words(old, start, values)
    backbone.text_encoder.set_input_embeddings(larger)
    backbone.text_encoder.config.vocab_size = start + len(words)
    backbone.tokenizer = tokenizer
    (rows,) = larger.added.parameters()
    return rows


def _add(tokenizer: Any, word: str) -> None:
    from transformers import AddedToken

    if not word or word.split() != [word]:
        raise UserError(f"new word {word!r}: it must be one word without spaces; join them by hyphens.")
    size = len(tokenizer)
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=False)])
    if len(tokenizer) == size:
        raise UserError(f"new word {word!r}: the tokenizer has such a token already; choose another, as <{word}>.")


@torch.no_grad()
def _beginning(backbone: Backbone, word: str, text: str) -> Tensor:
    tokens = backbone.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    if not tokens.numel():
        raise UserError(f"new word {word!r}: the text {text!r} that it begins with has no tokens; give a noun.")
    found: Tensor = backbone.text_encoder.get_input_embeddings()(tokens.long().to(backbone.device))
    return found[0].float().mean(0)


def new_words(backbone: Backbone, prompt: str) -> bool:
    """Whether a prompt has a word of :func:`add_words` in it: its embedding may not be kept while the rows train."""
    first = backbone.text_encoder.get_input_embeddings()
    while isinstance(first, Words) and isinstance(first.old, Words):
        first = first.old
    return isinstance(first, Words) and max(backbone.tokenizer(prompt).input_ids) >= first.start


def rows(backbone: Backbone) -> list[nn.Parameter]:
    """The embeddings of all words that were added so far, a parameter for each call, the first call's first."""
    found: list[nn.Parameter] = []
    module = backbone.text_encoder.get_input_embeddings()
    while isinstance(module, Words):
        found[:0] = module.added.parameters()
        module = module.old
    return found


@contextmanager
def restored(backbone: Backbone) -> Iterator[None]:
    """Take the words away, which were added in the block, when it ends: tokenizer, embedding and configuration."""
    encoder, tokenizer = backbone.text_encoder, backbone.tokenizer
    old, size = encoder.get_input_embeddings(), encoder.config.vocab_size
    try:
        yield
    finally:
        if backbone.tokenizer is not tokenizer:
            backbone.tokenizer = tokenizer
            encoder.set_input_embeddings(old)
            encoder.config.vocab_size = size
