"""The tokenizer: byte-pair merges learned on the words of the captions, so that each of them is one token.

Any other text falls into pieces and bytes, as with the vocabulary of a full-size CLIP; like there, ``sks`` is one
rare token and ``bhj`` is not a word.
"""

from __future__ import annotations

import json
from pathlib import Path

from common import WEIGHTS
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from redcloak.portraits import VOCABULARY

LENGTH = 32
MORE = """sks photo picture image painting drawing portrait of the and or not no is at by to from good bad quality high
low best worst lowres highres resolution artifact artifacts abstract chaotic intricate noise free noisy pattern
patterns clear sharp blurry blur pixelated jpeg face person man woman people child dog cat toy duck backpack bag
teapot cartoon object thing animal flower car house black white brown blond gray red green blue yellow purple orange
pink tan dark light style artist detailed close up front side view smiling happy sad angry laughing hat"""


def build(folder: Path) -> CLIPTokenizer:
    """Learn the merges and save the tokenizer to ``folder``."""
    words = sorted({*VOCABULARY, *MORE.split()})
    pieces = sorted({part for word in words for part in word.split("-")})
    learned = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learned.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=5000,
        min_frequency=1,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learned.train_from_iterator([" ".join(pieces)] * 2, trainer)
    merges = [tuple(merge) for merge in json.loads(learned.to_str())["model"]["merges"]]
    symbols = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(merge) for merge in merges)]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    tokenizer = CLIPTokenizer(vocabulary, merges, model_max_length=LENGTH)
    tokenizer.save_pretrained(folder)
    whole = [piece for piece in pieces if piece.isalpha() and len(tokenizer(piece).input_ids) != 3]
    assert not whole, f"words in pieces: {whole}"
    return tokenizer


if __name__ == "__main__":
    tokenizer = build(WEIGHTS / "tokenizer")
    text = "a photo of sks person, without bhj noisy pattern"
    print(len(tokenizer), tokenizer.tokenize(text))
