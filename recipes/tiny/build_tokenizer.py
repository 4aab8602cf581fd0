"""The tokenizer: byte-pair merges learned on the words of the captions, so that each of them is one token.

Any other text falls into pieces and bytes, as with the vocabulary of a full-size CLIP; like there, ``sks`` is one
rare token and ``bhj`` is not a word.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

from common import WEIGHTS
from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from redcloak.portraits import VOCABULARY

LENGTH = 32
MORE = """sks photo picture image painting drawing portrait of the and or not no is at by to from good bad quality high
low best worst lowres highres resolution artifact artifacts abstract chaotic intricate noise free noisy pattern
patterns clear sharp blurry blur pixelated jpeg face person man woman people child dog cat toy duck backpack bag
teapot cartoon object thing animal flower car house black white brown blond gray red green blue yellow purple orange
pink tan dark light style artist detailed close up front side view smiling happy sad angry laughing hat"""


def learn(words: list[str]) -> list[tuple[str, str]]:
    """Merge the most frequent pair until every word is one symbol; ties by alphabet, so that a rebuild is the same.

    Cite: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", ACL 2016, algorithm 1.
    """
    split = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for symbols in split for pair in pairwise(symbols)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = [_merged(symbols, best) for symbols in split]
    return merges


def _merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for symbol in symbols:
        if result and (result[-1], symbol) == pair:
            result[-1] += symbol
        else:
            result.append(symbol)
    return result


def build(folder: Path) -> CLIPTokenizer:
    """Learn the merges and save the tokenizer to ``folder``."""
    words = sorted({*VOCABULARY, *MORE.split()})
    pieces = sorted({part for word in words for part in word.split("-")})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn(pieces)
    symbols = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(merge) for merge in merges)]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    tokenizer = CLIPTokenizer(vocabulary, merges, model_max_length=LENGTH)
    tokenizer.save_pretrained(folder)
    whole = [piece for piece in pieces if len(tokenizer(piece).input_ids) != 3]
    assert not whole, f"words in pieces: {whole}"
    return tokenizer


if __name__ == "__main__":
    tokenizer = build(WEIGHTS / "tokenizer")
    text = "a photo of sks person, without bhj noisy pattern"
    print(len(tokenizer), tokenizer.tokenize(text))
