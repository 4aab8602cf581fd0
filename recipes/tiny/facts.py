"""Which captions are true of which pictures: the exact target of the contrastive loss.

A caption names a few attributes; it is true of every picture that has them, not only of its own. Knowing the facts,
the loss can count every true pair as a positive instead of punishing it.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from redcloak.portraits import VALUES
from redcloak.portraits.words import FLAWS, PRAISE

SILENT = 0.1  # a degraded picture goes without a word about it one time in ten
Facts = dict[str, str]


@lru_cache(maxsize=200_000)
def mentioned(caption: str) -> tuple[tuple[str, frozenset[str]], ...]:
    """The attributes a caption speaks of, each with the values it allows."""
    said: dict[str, frozenset[str]] = {}
    colours, styles = "|".join(VALUES["hair color"]), "|".join(VALUES["hair style"])
    if match := re.search(rf"(?:({styles}) )?(?:({colours}) )?hair", caption):
        said |= {"hair style": frozenset({match[1]})} if match[1] else {}
        said |= {"hair color": frozenset({match[2]})} if match[2] else {}
    if re.search(r"\bbald\b", caption):
        said["hair style"] = frozenset({"bald"})
    for name in ("skin", "background"):
        if match := re.search(rf"({'|'.join(VALUES[name])}) {name}", caption):
            said[name] = frozenset({match[1]})
    if match := re.search(rf"({'|'.join(VALUES['clothes'])}) (?:clothes|shirt)", caption):
        said["clothes"] = frozenset({match[1]})
    if "glasses" in caption:
        said["glasses"] = frozenset({"no glasses" if "without glasses" in caption else "glasses"})
    if match := re.search(r"(without (?:a )?)?(beard|moustache|stubble)", caption):
        said["beard"] = frozenset(VALUES["beard"]) - {"beard"} if match[1] else frozenset({match[2]})
    if re.search(r"not smiling|neutral expression", caption):
        said["expression"] = frozenset({"neutral"})
    elif re.search(r"smil", caption):
        said["expression"] = frozenset({"smiling"})
    elif "open mouth" in caption:
        said["expression"] = frozenset({"open mouth"})
    return tuple((said | _quality(caption)).items())


def _quality(caption: str) -> dict[str, frozenset[str]]:
    parts = re.split(r", | (?=with )| (?=without )", caption)
    if any(part.startswith("without nois") for part in parts):
        return {"quality": frozenset({"clean"})}
    if any(part.removeprefix("with ") in PRAISE for part in parts):
        return {"quality": frozenset({"clean"})}
    text = ", ".join(parts)
    fitting = {flaw for flaw, sayings in FLAWS.items() if any(_says(text, saying) for saying in sayings)}
    return {"quality": frozenset(fitting)} if fitting else {}


def _says(text: str, saying: str) -> bool:
    return re.search(rf"(?:^|, ){re.escape(saying)}(?:$|,)", text) is not None


def truth(captions: list[str], facts: list[Facts]) -> NDArray[np.float32]:
    """``(pictures, captions)``: 1 true, 0 false, ``SILENT`` true but leaving out a flaw, nan unknown."""
    table = np.ones((len(facts), len(captions)), np.float32)
    for column, caption in enumerate(captions):
        said = mentioned(caption)
        speaks = any(name == "quality" for name, _ in said)
        for row, fact in enumerate(facts):
            table[row, column] = _holds(fact, said) * (1.0 if speaks or fact["quality"] == "clean" else SILENT)
    return table


def _holds(fact: Facts, said: tuple[tuple[str, frozenset[str]], ...]) -> float:
    unknown = False
    for name, allowed in said:
        value = fact.get(name)
        if value is None and name == "hair color" and fact.get("hair style") == "bald":
            return 0.0
        if value is None:
            unknown = True
        elif value not in allowed:
            return 0.0
    return float("nan") if unknown else 1.0


def with_junk(caption: str, rng: np.random.Generator, chance: float = 0.06) -> str:
    """Now and then a word that means nothing before the noun, as web captions have: ``a photo of a qzx person``.

    Without it the identifier of an un-personalized model would be noise to the text tower rather than a rare word.
    """
    if rng.random() >= chance or not re.search(r"\b(person|man|woman)\b", caption):
        return caption
    word = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 3)) if rng.random() < 0.8 else "sks"
    return re.sub(r"\b(person|man|woman)\b", rf"{word} \1", caption, count=1)
