from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_run import arm, finished
from torch import Generator, Tensor

from redcloak.api import Context
from redcloak.checks import run_checks
from redcloak.config import Choice
from redcloak.crafting import masking
from redcloak.crafting.lens import gradient_share, lens
from redcloak.protect import adaptive
from redcloak.rng import generators
from redcloak.stats import Sample, expected


def sample(level: float, spread: float = 0.02, subjects: int = 5) -> Sample:
    rng = np.random.default_rng(3)
    values = level + spread * rng.standard_normal(subjects * 8)
    return Sample(values, np.repeat(np.arange(subjects), 8), np.zeros(subjects * 8, dtype=np.int64))


def fading(strength: float):
    """A lens that returns the image and lets ``strength`` of the gradient pass."""

    def look(images: Tensor, streams: list[Generator]) -> Tensor:
        return strength * images + (1 - strength) * images.detach()

    return look


@pytest.mark.parametrize("strength", [1.0, 0.25, 0.001])
def test_the_share_is_what_the_lens_lets_pass(strength: float, photos: Tensor, context: Context):
    share = gradient_share(replace(context, lens=fading(strength)), photos, generators(0, "p", len(photos)))
    assert share == pytest.approx(strength, rel=1e-3)
    assert (masking.blind(share) is not None) == (strength < 0.01)


def test_measuring_the_share_draws_nothing_from_the_photos_streams(photos: Tensor, context: Context):
    streams = generators(0, "p", len(photos))
    before = [stream.get_state() for stream in streams]
    gradient_share(replace(context, lens=fading(1.0)), photos, streams)
    assert all(torch.equal(stream.get_state(), state) for stream, state in zip(streams, before, strict=True))


def test_a_straight_through_lens_lets_the_gradient_pass(photos: Tensor, context: Context):
    chain = ((Choice(name="jpeg"),),)
    look = lens(chain, context, "straight_through", 0.0)
    assert 0.3 < gradient_share(replace(context, lens=look), photos, generators(0, "p", len(photos))) < 3


def test_an_adaptive_protection_tells_its_share(photos: Tensor, context: Context):
    told: dict[str, float] = {}
    context = replace(context, progress=lambda done, total, values: told.update(values))
    config = adaptive.Config(base={"name": "advdm", "settings": {"steps": 1}}, through=[["gaussian"]], budget=4)
    adaptive.adaptive(photos, config, context, generators(0, "p", len(photos)))
    assert 0 < told["lens_gradient"] < 2


def test_a_blind_ascent_is_a_red_flag_of_the_audit():
    arms = tuple(
        arm(name).model_copy(update={"lens_gradient": 1e-4} if name in ("protected", "red_team") else {})
        for name in ("untuned", "clean", "random_noise", "protected", "red_team")
    )
    (flag,) = run_checks(finished(arms=arms))
    assert (flag.anchor, flag.arm) == ("gradient-vanishes", "protected")


def test_a_plain_protection_that_beats_the_adaptive_one():
    flag = masking.plain_beats_adaptive("adaptive", sample(0.2), sample(0.4))
    assert flag is not None
    assert flag.anchor == "plain-beats-adaptive"
    assert masking.plain_beats_adaptive("adaptive", sample(0.4), sample(0.2)) is None
    assert masking.plain_beats_adaptive("adaptive", sample(0.3), sample(0.3)) is None


def test_more_that_protects_less():
    flag = masking.more_protects_less("plain", "twice the steps", sample(0.2), sample(0.3))
    assert flag is not None
    assert "twice the steps leaves 0.100" in flag.message
    assert masking.more_protects_less("plain", "twice the steps", sample(0.3), sample(0.2)) is None


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_the_expected_score_mixes_both(chance: float):
    value = expected(sample(0.1), sample(0.6), chance)
    assert value.estimate == pytest.approx(
        chance * sample(0.1).values.mean() + (1 - chance) * sample(0.6).values.mean()
    )
    assert value.low < value.estimate < value.high


def test_a_chance_is_a_probability():
    with pytest.raises(ValueError, match="no probability"):
        expected(sample(0.1), sample(0.6), 1.5)
