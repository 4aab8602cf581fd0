"""Verdicts in worlds whose causes are known: tables, and photos that really were intervened on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from planted import world
from torch import Tensor
from torch.nn import functional as F

from redcloak.api import Context
from redcloak.diagnose.causes import Panel
from redcloak.diagnose.verdicts import Evidence, presence, verdicts
from redcloak.registry import load
from redcloak.rng import generators
from redcloak.stats import Estimate, Sample

ABOUT = ("2a", "2b", "2c", "3a", "3b", "5a", "7a")


def evidence(panel: Panel) -> Evidence:
    """A panel as if each arm had been trained once; its misalignment is that of both views, and of the embedding."""
    columns = dict(panel.columns)
    for name in ("misalignment_decoded", "embedding", "embedding_decoded", "words_gain"):
        columns[name] = columns["misalignment"].copy()
    columns |= {"l2": np.ones(len(panel.arms)), "spectrum": np.full(len(panel.arms), 0.1)}
    panel, learned = Panel(panel.subjects, panel.arms, columns), {}
    for arm in np.unique(panel.arms).tolist():
        rows = panel.arms == arm
        learned[arm] = Sample(0.6 - columns["damage"][rows], panel.subjects[rows], np.zeros(rows.sum(), dtype=np.int64))
    return Evidence(learned, panel)


def answers(found: Evidence) -> dict[str, set[str]]:
    told: dict[str, set[str]] = {}
    for verdict in verdicts(found):
        told.setdefault(verdict.claim, set()).add(verdict.answer)
    return told


@pytest.mark.parametrize("seed", range(4))
def test_a_world_where_misalignment_is_the_only_cause_supports_and_its_opposite_refutes(seed: int):
    cause = answers(evidence(world(seed, misalignment=0.6, latents=0, subjects=24)))
    assert {claim: cause[claim] for claim in ABOUT} == {claim: {"supported"} for claim in ABOUT} | {"7a": {"refuted"}}
    bystander = answers(evidence(world(seed, misalignment=0, latents=0.6, subjects=24)))
    wrong = {claim for claim in ABOUT if "supported" in bystander[claim]}
    assert wrong == {"7a"}, "only the refutation of misalignment is supported"
    assert all(bystander[claim] == {"refuted"} for claim in ("2a", "2b", "2c", "3a", "3b"))


def test_claims_that_only_observe_cannot_tell_a_bystander():
    """Why there are interventions: what a protection moves goes together, whichever of it does the harm."""
    told = answers(evidence(world(1, misalignment=0, latents=0.6)))
    assert told["1"] == {"supported"}
    assert told["5c"] >= {"supported"}


def test_a_world_without_effects_decides_nothing_about_a_cause():
    told = answers(evidence(world(0, misalignment=0, latents=0)))
    assert all(told[claim] == {"undecided"} for claim in ("1", "2c", "3a", "3b", "7a")), "there is no damage to explain"


def test_two_subjects_and_much_noise_decide_nothing():
    found = evidence(world(0, misalignment=0.6, latents=0, subjects=2, noise=0.5))
    assert answers(found)["2a"] == {"undecided"}


def test_one_subject_decides_nothing_whatever_its_arms_say():
    found = evidence(world(0, misalignment=0.6, latents=0, subjects=1))
    assert set().union(*answers(found).values()) == {"undecided"}


@pytest.mark.parametrize(
    ("claim", "arm", "column", "value"),
    [("1", "shuffled", "l2", 0.5), ("1", "matched_noise", "spectrum", 0.4), ("2a", "clip_only", "latent_shift", 0.4),
     ("2a", "clip_only", "misalignment", 0.1), ("2b", "clip_decoded", "latent_shift", 0.4),
     ("2b", "clip_decoded", "misalignment_decoded", 0.1), ("2c", "latents_only", "embedding_decoded", 0.3),
     ("2c", "latents_only", "latent_shift", 0.1), ("3a", "realign", "embedding", 0.3),
     ("3a", "realign", "latent_shift", 0.0), ("3b", "realign_decoded", "latent_shift", 0.1),
     ("4a", "base", "words_gain", 0.0), ("7a", "latents_only", "latent_shift", 0.0)],
)  # fmt: skip
def test_an_instrument_that_failed_decides_nothing(claim: str, arm: str, column: str, value: float):
    """What was to be held moved, or what was to be moved, or kept as the protection has it, did not."""
    held = evidence(world(0, misalignment=0.6, latents=0))
    held.learned["words"] = held.learned["clean"]
    sound = {each.words: each for each in verdicts(held)}
    held.panel.columns[column][held.panel.arms == arm] = value
    broken = [each for each in verdicts(held) if each.claim == claim and each.why != sound[each.words].why]
    assert {each.answer for each in broken} == {"undecided"}
    assert any(
        ("spectrum" in each.why if column == "spectrum" else column in each.why) or claim == "4a" for each in broken
    )


@pytest.mark.parametrize(("damage", "answer"), [(0.3, "refuted"), (0.0, "undecided")])
def test_a_red_team_beats_only_an_adaptive_protection_that_protects(damage: float, answer: str):
    found = evidence(world(0, misalignment=0.6, latents=0))
    clean = found.learned["clean"]
    jitter = np.random.default_rng(1).normal(0, 0.005, len(clean.values))
    found.learned["adaptive"] = Sample(clean.values - damage + jitter, clean.subjects, clean.seeds)
    for name in ("adaptive+codesr+cdl", "clean+codesr+cdl+negative"):
        found.learned[name] = clean
    assert answers(found)["7b"] == {answer}


@pytest.mark.parametrize(
    ("interval", "answer"),
    [((0.1, 0.06, 0.2), "present"), ((0.01, -0.01, 0.03), "absent"), ((0.02, 0.01, 0.04), "absent"),
     ((0.04, 0.01, 0.09), "undecided"), ((0.1, -0.1, 0.3), "undecided"), ((-0.2, -0.3, -0.1), "absent"),
     ((0.1, float("nan"), float("nan")), "undecided")],
)  # fmt: skip
def test_presence_needs_zero_excluded_and_the_margin_reached(interval: tuple[float, float, float], answer: str):
    assert presence(Estimate(*interval, clusters=5), 0.05) == answer


SIZE = 3 * 8 * 8


def linear_suite() -> SimpleNamespace:
    """An autoencoder and a CLIP that are matrices; both see part of what the other sees."""
    stream = torch.Generator().manual_seed(0)
    encoder, tower = (torch.randn(16, SIZE, generator=stream) / SIZE**0.5 for _ in range(2))
    tower = tower + 0.5 * encoder
    texts = F.normalize(torch.randn(2, 16, generator=stream), dim=-1)
    backbone = SimpleNamespace(
        encode=lambda images: (images.flatten(1) @ encoder.T).view(-1, 1, 4, 4),
        decode=lambda latents: (latents.flatten(1) @ encoder).view(-1, 3, 8, 8),
    )
    towers = SimpleNamespace(
        embed_images=lambda images: F.normalize(images.flatten(1) @ tower.T, dim=-1), embed_texts=lambda _: texts
    )
    return SimpleNamespace(backbone=backbone, clip=towers)


def perturbed(suite: SimpleNamespace, clean: Tensor) -> dict[str, Tensor]:
    """A protection that moves both, and the real interventions that move one."""
    context, streams = Context(suite), generators(0, "p", len(clean))
    made = {"clean": clean}
    for arm, name, settings in (
        ("clip_only", "clip_only", {"tolerance": 0.02}),
        ("latents_only", "latents_only", {"objective": "distance", "view": "photo", "tolerance": 0.02}),
        ("base", "latents_only", {"objective": "distance", "view": "photo", "tolerance": 9.0}),
    ):
        entry = load("protect", name)
        made[arm] = entry.function(clean, entry.configure(steps=60, rate=0.05, **settings), context, streams)
    return made


@pytest.mark.parametrize("reads", ["clip", "latents"])
def test_a_trainer_that_reads_only_what_clip_sees_is_told_from_one_that_ignores_it(reads: str):
    """End to end: photos, real interventions, a trainer that learns the mean of what it reads, verdicts."""
    suite, rows, learned = linear_suite(), [], []
    read = {"clip": suite.clip.embed_images, "latents": lambda x: suite.backbone.encode(x).flatten(1)}[reads]
    scale = 0.0
    for number in range(8):
        stream = torch.Generator().manual_seed(number)
        clean = (torch.rand(2, 3, 8, 8, generator=stream) * 0.6 + 0.2).mul(255).round() / 255
        made = perturbed(suite, clean)
        lost = {arm: float((read(x).mean(0) - read(clean).mean(0)).norm()) for arm, x in made.items()}
        scale = scale or lost["base"] / 0.2
        for arm, images in made.items():
            moved = suite.clip.embed_images(images) - suite.clip.embed_images(clean)
            shift = (suite.backbone.encode(images) - suite.backbone.encode(clean)).pow(2).mean().sqrt()
            rows.append((f"s{number}", arm, float(moved.norm(dim=1).mean()), float(shift), lost[arm] / scale))
            learned.append(0.6 - lost[arm] / scale + 0.01 * float(torch.randn((), generator=stream)))
    subject, arm, moved, shift, damage = (np.array(each) for each in zip(*rows, strict=True))
    columns = {"misalignment": moved, "misalignment_decoded": moved, "embedding": moved, "latent_shift": shift}
    columns |= {"perceptual": np.zeros(len(arm)), "damage": damage, "dose": (arm == "base") * 1.0}
    columns["embedding_decoded"] = np.zeros(len(arm))  # the matrices' round trip is no part of this world
    samples = {
        name: Sample(np.array(learned)[arm == name], subject[arm == name], np.zeros(8, dtype=np.int64))
        for name in np.unique(arm).tolist()
    }
    told = answers(Evidence(samples, Panel(subject, arm, columns)))
    wanted = {"clip": "supported", "latents": "refuted"}[reads]
    assert told["2a"] == {wanted}
    assert told["2c"] == {wanted}
    if reads == "clip":  # with four arms a correlation given a shift that acts in a curve proves nothing
        assert told["5a"] == {wanted}
