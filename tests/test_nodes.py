"""Whose luck a seed is: the same in all arms of a subject, no other subject's, unless that is asked for."""

from __future__ import annotations

import pytest

from redcloak.arms import Builder
from redcloak.config import AuditConfig
from redcloak.subjects import Photos
from redcloak.suite import load as load_suite

SEEDED = ("protect", "purify", "personalize", "generate")


def seeds(digest: str, **settings: object) -> dict[str, set[int]]:
    """What the stages of an audit of one subject are seeded with."""
    photos = Photos("drawn:0", (), ("a.png", "b.png"), (), ("r.png",), True, digest)
    builder = Builder(AuditConfig(photos="drawn:0", **settings), load_suite("tiny"), photos)
    builder.arms()
    return {
        stage: {int(node.config["seed"]) for node in builder.graph.order() if node.stage == stage} for stage in SEEDED
    }


@pytest.mark.parametrize("stage", SEEDED)
def test_arms_of_a_subject_share_their_luck_and_subjects_do_not(stage):
    one, again, other = seeds("a"), seeds("a"), seeds("b")
    runs = 2 if stage in ("personalize", "generate") else 1  # of every arm, however many there are
    assert len(one[stage]) == len(other[stage]) == runs
    assert one == again
    assert not one[stage] & other[stage]


def test_a_seed_can_be_the_same_noise_for_everybody():
    assert seeds("a", common_seeds=True) == seeds("b", common_seeds=True)
    assert seeds("a", common_seeds=True)["personalize"] == {0, 1}
    assert seeds("a", seeds=[7], common_seeds=True)["protect"] == {7}
