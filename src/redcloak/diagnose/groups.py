"""The photos that a diagnosis puts side by side: clean, protected, purified, and with a control perturbation.

All groups hold the same photos in the same order, so that every comparison is paired. A control adds something of the
same L_inf as the protection to the clean photos: if it moves them as far, it is the noise and not its aim.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from redcloak import registry
from redcloak.api import Budget, Context
from redcloak.config import Choice
from redcloak.crafting.balls import quantise
from redcloak.images import on_lattice, save_images, to_tensor
from redcloak.rng import generators
from redcloak.subjects import Pairs, load_subject, pair

Role = Literal["clean", "protected", "purified", "control"]
CLEAN, PROTECTED = "clean", "protected"
SMALLEST, LARGEST = 1, 64  # L_inf in 8-bit steps for which a control of the same size makes sense


@dataclass(frozen=True)
class Group:
    """One group: its name, what was done to the photos, and the photos ``(N, 3, H, W)`` in [0, 1]."""

    name: str
    role: Role
    images: Tensor


def pairs(photos: str, clean: str, size: int) -> Pairs:
    """Protected photos and the clean ones they were made from; ``clean`` may be ``drawn:N``.

    Raises:
        UserError: the two do not pair up (as :func:`redcloak.subjects.pair`), or cannot be read.
    """
    if not clean.startswith("drawn:"):
        return pair(Path(clean), Path(photos), size)
    drawn = load_subject(clean, size)
    with tempfile.TemporaryDirectory() as folder:
        save_images(Path(folder), to_tensor(list(drawn.train)), list(drawn.train_names))
        return pair(Path(folder), Path(photos), size)


def groups(
    found: Pairs, chains: Sequence[Sequence[Choice]], controls: Sequence[str], context: Context, seed: int = 0
) -> tuple[list[Group], list[str]]:
    """The groups in the order they are shown, and notes on what could not be made.

    Purified photos are those of an audit with the same settings and seed and ``common_seeds``. Random: what the
    purifiers and the controls draw, from streams named by ``seed``.

    Raises:
        UserError: a purifier or a control is unknown, or lacks its model.
    """
    clean, protected = to_tensor(list(found.clean)), to_tensor(list(found.protected))
    made = [Group(CLEAN, "clean", clean), Group(PROTECTED, "protected", protected)]
    for chain in chains:
        name = "+".join((PROTECTED, *(choice.name for choice in chain)))
        made.append(Group(name, "purified", purified(protected, chain, context, seed)))
    size, notes = linf(protected, clean), []
    if SMALLEST <= size <= LARGEST:
        made += [Group(name, "control", control(name, clean, protected, context, seed)) for name in controls]
    elif controls:
        notes.append(f"L_inf is {size}/255, so there is no control of the same size ({SMALLEST} to {LARGEST}/255).")
    return made, notes


def purified(images: Tensor, chain: Sequence[Choice], context: Context, seed: int = 0) -> Tensor:
    """Images after a chain of purifiers, as the files that it would write."""
    for position, choice in enumerate(chain):
        entry = registry.load("purify", choice.name)
        settings = entry.configure(**context.suite.settings(choice.name, choice.settings))
        streams = generators(seed, f"{position}-{entry.name}", len(images))
        with torch.no_grad():
            images = entry.function(images, settings, context, streams)
    return on_lattice(images)


def control(name: str, clean: Tensor, protected: Tensor, context: Context, seed: int = 0) -> Tensor:
    """The clean photos with something of the same L_inf that has another aim, or none.

    ``shuffled``, ``matched_noise`` and ``transplant`` take what these photos were protected with: its phases shuffled,
    noise of its spectrum, or moved on by one photo. Any other name is a protection, with its default settings.
    """
    from redcloak.protect.matched_noise import match
    from redcloak.protect.shuffled import shuffle_phases
    from redcloak.protect.transplant import moved_on

    ball = Budget.of_255(linf(protected, clean))
    offset, streams = protected - clean, generators(seed, name, len(clean))
    if name == "shuffled":
        return quantise(clean + shuffle_phases(offset, streams, turns=50), clean, ball)
    if name == "matched_noise":
        return quantise(clean + match(offset, streams, turns=50), clean, ball)
    if name == "transplant":
        return quantise(clean + moved_on(offset), clean, ball)
    entry = registry.load("protect", name)
    settings = entry.configure(**context.suite.settings(name, {}) | {"budget": linf(protected, clean)})
    made: Tensor = entry.function(clean, settings, context, streams)
    return made


def linf(images: Tensor, clean: Tensor) -> int:
    """The largest change in 8-bit steps."""
    return round(float((images - clean).abs().max()) * 255)
