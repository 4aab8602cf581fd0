"""Worlds whose causes are known: tables of arms and subjects in which the damage comes from where the world says."""

from __future__ import annotations

import numpy as np

from redcloak.diagnose.causes import Panel

ARMS = {  # misalignment, latent shift and dose of each arm
    "clean": (0.0, 0.0, 0.0),
    "random_noise": (0.1, 0.1, 0.0),
    "matched_noise": (0.1, 0.1, 0.0),
    "shuffled": (0.1, 0.15, 0.0),
    "transplant": (0.1, 0.3, 0.0),
    "half": (0.2, 0.2, 0.5),
    "base": (0.4, 0.4, 1.0),
    "clip_only": (0.4, 0.0, 0.0),
    "clip_decoded": (0.45, 0.1, 0.0),
    "latents_only": (0.0, 0.4, 0.0),
    "realign": (0.0, 0.4, 0.0),
    "realign_decoded": (0.0, 0.4, 0.0),
}
OBSERVED = ("clean", "random_noise", "matched_noise", "shuffled", "half", "base")


def world(seed: int, *, misalignment: float, latents: float, subjects: int = 12, noise: float = 0.02) -> Panel:
    """Damage = misalignment * m + latents * z + the subject + noise, of every arm."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(subjects):
        ease = rng.normal(0, 0.1)
        for arm, (m, z, dose) in ARMS.items():
            moved, shifted = (value + rng.normal(0, 0.03) * (arm != "clean") for value in (m, z))
            damage = misalignment * moved + latents * shifted + ease + rng.normal(0, noise)
            rows.append((f"s{number}", arm, moved, shifted, rng.normal(0.1, 0.02), dose, damage))
    subject, arm, *columns = zip(*rows, strict=True)
    names = ("misalignment", "latent_shift", "perceptual", "dose", "damage")
    return Panel(np.array(subject), np.array(arm), {n: np.array(c) for n, c in zip(names, columns, strict=True)})


def linear(seed: int, a: float, b: float, past: float, *, confounded: float = 0.0, subjects: int = 12) -> Panel:
    """Random doses: mediator = a dose + u, outcome = past dose + b mediator + u, where ``u`` is a column too."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(subjects), 8)
    own_a, own_past = (rng.normal(0, 0.05, subjects)[owner] for _ in range(2))  # nobody is the mean
    dose, u = rng.choice((0.0, 0.5, 1.0), len(owner)), confounded * rng.normal(size=len(owner))
    mediator = (a + own_a) * dose + u + rng.normal(0, 0.2, len(owner))
    outcome = (
        (past + own_past) * dose + b * mediator + u + rng.normal(0, 0.2, len(owner)) + rng.normal(size=subjects)[owner]
    )
    columns = {"dose": dose, "mediator": mediator, "outcome": outcome, "u": u}
    return Panel(np.char.add("s", owner.astype(str)), np.full(len(owner), "x"), columns)


def two_paths(seed: int, a: float, b: float, other: float, past: float, subjects: int = 12) -> Panel:
    """Random doses that go through the mediator (``a b``), through another quantity (``other``), and past both."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(subjects), 8)
    dose = rng.choice((0.0, 0.5, 1.0), len(owner))
    mediator, beside = (slope * dose + rng.normal(0, 0.2, len(owner)) for slope in (a, 1.0))
    outcome = b * mediator + other * beside + past * dose + rng.normal(0, 0.2, len(owner))
    columns = {"dose": dose, "mediator": mediator, "beside": beside, "outcome": outcome}
    return Panel(np.char.add("s", owner.astype(str)), np.full(len(owner), "x"), columns)
