"""Portraits drawn by rule: people that never lived, in photos that differ as photos do.

An `Identity` is what a person keeps, a `Shot` what changes between two photos; together they determine
the picture, its attributes and what captions may say.
"""

import numpy as np
from numpy.typing import NDArray

from redcloak.portraits.identity import Identity, draw_identity
from redcloak.portraits.picture import render
from redcloak.portraits.shot import Shot, draw_shot
from redcloak.portraits.words import VALUES, VOCABULARY, attributes, caption

__all__ = [
    "VALUES",
    "VOCABULARY",
    "Identity",
    "Shot",
    "attributes",
    "caption",
    "draw_identity",
    "draw_shot",
    "render",
    "subject",
]

_SUBJECTS = 0x5EED  # a stream of its own, so that no subject is ever met in training


def subject(number: int, shots: int = 8, size: int = 64) -> list[NDArray[np.uint8]]:
    """Clean shots of one drawn person, the same for ever; more shots only extend the list."""
    person_seed, *shot_seeds = np.random.SeedSequence([_SUBJECTS, number]).spawn(shots + 1)
    person = draw_identity(np.random.default_rng(person_seed))
    return [render(person, draw_shot(np.random.default_rng(seed)), size) for seed in shot_seeds]
