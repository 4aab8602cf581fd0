"""What can be said about a portrait: its attributes, and captions in plain language."""

import re
from collections.abc import Callable

import numpy as np

from redcloak.portraits.identity import Identity
from redcloak.portraits.palette import BACKGROUND, CLOTHES, HAIR, SKIN
from redcloak.portraits.shot import QUALITIES, Shot

Phrases = dict[str, tuple[str, ...]]

VALUES: Phrases = {
    "hair color": tuple(HAIR),
    "hair style": ("short", "long", "curly", "bald"),
    "skin": tuple(SKIN),
    "glasses": ("glasses", "no glasses"),
    "beard": ("beard", "moustache", "stubble", "no beard"),
    "expression": ("neutral", "smiling", "open mouth"),
    "background": tuple(BACKGROUND),
    "clothes": tuple(CLOTHES),
    "quality": QUALITIES,
}

OPENINGS: tuple[tuple[str, float], ...] = (
    ("a photo of a {noun}", 6.0),
    ("a photo of {noun}", 4.0),
    ("portrait of a {noun}", 1.5),
    ("a portrait of a {noun}", 1.0),
    ("a picture of a {noun}", 1.5),
    ("a {noun}", 1.5),
    ("a close-up photo of a {noun}", 1.0),
)

SAID: dict[str, tuple[str, ...]] = {
    "hair": ("with {0} hair", "{0} hair", "with {0} hair"),
    "bald": ("bald", "with a bald head"),
    "glasses": ("wearing glasses", "with glasses", "glasses"),
    "beard": ("with a beard", "with beard"),
    "moustache": ("with a moustache", "with moustache"),
    "stubble": ("with stubble", "stubble"),
    "skin": ("{0} skin", "with {0} skin"),
    "smiling": ("smiling", "with a smile", "smiling face"),
    "open mouth": ("open mouth", "with open mouth", "with an open mouth"),
    "neutral": ("neutral expression", "with a neutral expression", "not smiling"),
    "background": ("{0} background", "on a {0} background", "with a {0} background"),
    "clothes": ("{0} clothes", "wearing {0} clothes", "wearing a {0} shirt", "in {0} clothes"),
}

FLAWS: Phrases = {
    "noisy pattern": (
        "noisy pattern", "noisy pattern", "with noisy pattern", "noisy", "noise", "low quality, artifact",
    ),
    "blurry": ("blurry", "blurry", "lowres", "low quality", "out of focus"),
    "jpeg artifacts": ("jpeg artifacts", "jpeg artifacts", "low quality, artifact", "artifact"),
    "pixelated": ("pixelated", "pixelated", "lowres", "low quality"),
}  # fmt: skip
PRAISE = ("high quality", "clear", "sharp", "clean", "best quality")
ABSENT: Phrases = {
    "glasses": ("without glasses",),
    "beard": ("without beard", "without a beard"),
    "quality": ("without noise", "without noisy pattern"),
}
NOUNS = ("person", "man", "woman")
MODIFIERS = ("smiling", "bald")


def attributes(identity: Identity, shot: Shot) -> dict[str, str]:
    """The visible facts; a bald person has no "hair color"."""
    facts = {
        "hair color": identity.hair,
        "hair style": identity.style,
        "skin": identity.skin,
        "glasses": "glasses" if identity.glasses else "no glasses",
        "beard": identity.beard,
        "expression": shot.expression,
        "background": shot.background,
        "clothes": shot.clothes,
        "quality": shot.quality,
    }
    if identity.style == "bald":
        del facts["hair color"]
    return facts


def _choose(rng: np.random.Generator, phrases: tuple[str, ...]) -> str:
    return phrases[int(rng.integers(len(phrases)))]


def _hair(facts: dict[str, str], rng: np.random.Generator) -> str:
    style, colour = facts["hair style"], facts.get("hair color", "")
    if style == "bald":
        return _choose(rng, SAID["bald"])
    said = (colour, f"{style} {colour}", style)[int(rng.choice(3, p=(0.45, 0.35, 0.2)))]
    return _choose(rng, SAID["hair"]).format(said)


def _sayings(facts: dict[str, str]) -> list[tuple[float, Callable[[np.random.Generator], str]]]:
    """Every phrase that would be true, with how readily one mentions it."""

    def of(key: str, *words: str) -> Callable[[np.random.Generator], str]:
        return lambda rng: _choose(rng, SAID[key]).format(*words)

    said: list[tuple[float, Callable[[np.random.Generator], str]]] = [
        (3.0, lambda rng: _hair(facts, rng)),
        (1.0, of("skin", facts["skin"])),
        (0.6 if facts["expression"] == "neutral" else 2.5, of(facts["expression"])),
        (2.0, of("background", facts["background"])),
        (1.5, of("clothes", facts["clothes"])),
    ]
    if facts["glasses"] == "glasses":
        said.append((3.0, of("glasses")))
    if facts["beard"] != "no beard":
        said.append((2.5, of(facts["beard"])))
    return said


def _opening(identity: Identity, facts: dict[str, str], rng: np.random.Generator) -> str:
    weights = np.asarray([weight for _, weight in OPENINGS])
    opening = OPENINGS[int(rng.choice(len(OPENINGS), p=weights / weights.sum()))][0]
    noun = "person" if rng.random() < 0.87 else ("woman" if identity.woman else "man")
    if facts["expression"] == "smiling" and rng.random() < 0.06:
        return f"a smiling photo of a {noun}"
    if rng.random() < 0.06:
        fitting = [word for word in MODIFIERS if word in (facts["expression"], facts["hair style"])]
        if fitting and " a {noun}" in opening:
            noun = f"{_choose(rng, tuple(fitting))} {noun}"
    return opening.format(noun=noun)


def _quality(facts: dict[str, str], rng: np.random.Generator) -> str | None:
    if facts["quality"] != "clean":
        return _choose(rng, FLAWS[facts["quality"]]) if rng.random() < 0.9 else None
    return _choose(rng, PRAISE) if rng.random() < 0.15 else None


def _absent(facts: dict[str, str], rng: np.random.Generator) -> str | None:
    """Now and then, what is not there: language knows negation, so these captions do too."""
    lacking = {"glasses": "no glasses", "beard": "no beard", "quality": "clean"}
    free = [key for key, value in lacking.items() if facts[key] == value]
    if not free or rng.random() >= 0.095:
        return None
    return _choose(rng, ABSENT[free[int(rng.integers(len(free)))]])


def caption(identity: Identity, shot: Shot, rng: np.random.Generator) -> str:
    """One of many captions that are true of the photo."""
    facts = attributes(identity, shot)
    if rng.random() < 0.10:
        parts = [_choose(rng, ("a photo of person", "a photo of a person", "a photo of person", "a person"))]
    else:
        said = _sayings(facts)
        weights = np.asarray([weight for weight, _ in said])
        count = min(len(said), int(rng.integers(1, 6)))
        order = rng.choice(len(said), count, replace=False, p=weights / weights.sum())
        parts = [_opening(identity, facts, rng)] + [said[int(k)][1](rng) for k in order]
        absent = _absent(facts, rng)
        parts += [absent] if absent else []
    quality = _quality(facts, rng)
    if quality:
        parts.insert(1 if rng.random() < 0.3 else len(parts), quality)
    return _join(parts, rng)


def _join(parts: list[str], rng: np.random.Generator) -> str:
    """Commas, except that a first "with ..." or "wearing ..." often follows the noun directly."""
    if len(parts) > 1 and parts[1].startswith(("with", "wearing", "in ", "on ")) and rng.random() < 0.7:
        parts = [f"{parts[0]} {parts[1]}", *parts[2:]]
    return ", ".join(parts)


def words(text: str) -> list[str]:
    """The words of a caption."""
    return re.findall(r"[a-z-]+", text)


def _vocabulary() -> tuple[str, ...]:
    texts = [opening.format(noun=noun) for opening, _ in OPENINGS for noun in NOUNS]
    for table in (SAID, FLAWS, ABSENT, VALUES):
        texts += [phrase.replace("{0}", "") for phrases in table.values() for phrase in phrases]
    spoken = {word for text in [*texts, *PRAISE, *MODIFIERS] for word in words(text)}
    return tuple(sorted(spoken - {"no"}))  # "no glasses" is a value of an attribute; a caption says "without"


VOCABULARY: tuple[str, ...] = _vocabulary()
