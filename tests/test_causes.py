"""The analysis of causes against closed forms, and against worlds whose causes are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import OBSERVED, linear, two_paths, world
from scipy.stats import spearmanr

from redcloak.diagnose.causes import Panel, mediation, partial_correlation
from redcloak.errors import UserError


def one(values: dict[str, np.ndarray]) -> Panel:
    size = len(next(iter(values.values())))
    return Panel(np.full(size, "s"), np.array([f"a{i}" for i in range(size)]), values)


def test_partial_correlation_is_that_of_the_residuals():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 2))
    x, y = z @ [1, 0.5] + rng.normal(size=200), z @ [0.3, -1] + rng.normal(size=200)
    panel = one({"x": x, "y": y, "p": z[:, 0], "q": z[:, 1]})
    design = np.c_[np.ones(200), z]
    rest = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    found = partial_correlation(panel, "x", "y", ("p", "q"), ranks=False, n=10)
    assert found.estimate == pytest.approx(np.corrcoef(*rest)[0, 1])
    ranked = partial_correlation(panel, "x", "y", ranks=True, n=10)
    assert ranked.estimate == pytest.approx(spearmanr(x, y).statistic)


def test_what_subjects_have_of_their_own_is_no_correlation():
    panel = linear(0, 0.0, 0.0, 0.0, subjects=40)
    own = {
        name: column + 10 * np.unique(panel.subjects, return_inverse=True)[1] for name, column in panel.columns.items()
    }
    shifted = replace(panel, columns=own)
    for ranks in (True, False):
        plain, moved = (partial_correlation(p, "mediator", "outcome", ranks=ranks, n=50) for p in (panel, shifted))
        assert moved.estimate == pytest.approx(plain.estimate, abs=1e-6)
        assert abs(moved.estimate) < 0.15


@pytest.mark.parametrize(("a", "b", "past"), [(0.6, 0.5, 0.0), (0.6, 0.0, 0.5), (0.8, -0.4, 0.7)])
def test_the_mediation_estimate_is_unbiased_and_its_interval_covers(a: float, b: float, past: float):
    worlds = [mediation(linear(seed, a, b, past), "dose", "mediator", "outcome", n=400) for seed in range(150)]
    for name, truth in (("through", a * b), ("past", past), ("total", a * b + past)):
        found = [getattr(each, name) for each in worlds]
        means = np.array([each.estimate for each in found])
        assert abs(means.mean() - truth) < 3 * means.std() / len(means) ** 0.5 + 1e-3, name
        assert np.mean([each.low <= truth <= each.high for each in found]) > 0.88, name


@pytest.mark.parametrize(("b", "other", "past"), [(0.5, 0.0, 0.3), (0.25, 0.8, 0.0), (0.0, 0.6, 0.2), (0.8, 0.1, 0.1)])
def test_the_share_is_of_everything_that_the_dose_does(b: float, other: float, past: float):
    """What goes through a control is no part of the share, and is in what it is a share of."""
    truth = 0.8 * b / (0.8 * b + other + past)
    panels = [two_paths(seed, 0.8, b, other, past) for seed in range(200)]
    shares = [mediation(panel, "dose", "mediator", "outcome", ("beside",), n=400).share for panel in panels]
    found = np.array([share.estimate for share in shares])
    assert abs(found.mean() - truth) < 3 * found.std() / len(found) ** 0.5 + 0.005
    assert np.mean([share.low <= truth <= share.high for share in shares]) > 0.9
    if other > 0.5:  # the half that goes another way is not credited to the mediator
        assert np.mean([share.low > 0.5 for share in shares]) < 0.05


def test_a_common_cause_biases_it_and_its_control_does_not():
    plain, controlled = [], []
    for seed in range(60):
        panel = linear(seed, 0.6, 0.5, 0.2, confounded=0.3)
        plain.append(mediation(panel, "dose", "mediator", "outcome", n=10).through.estimate)
        controlled.append(mediation(panel, "dose", "mediator", "outcome", ("u",), n=10).through.estimate)
    assert np.mean(plain) > 0.3 + 0.15
    assert abs(np.mean(controlled) - 0.3) < 3 * np.std(controlled) / 60**0.5


@pytest.mark.parametrize("seed", range(5))
def test_interventions_tell_the_planted_worlds_apart(seed: int):
    """Over all arms, whose interventions break the bond between misalignment and shift."""
    cause, bystander = world(seed, misalignment=1, latents=0), world(seed, misalignment=0, latents=1)
    seen = [
        partial_correlation(w, "misalignment", "damage", ("latent_shift", "perceptual")) for w in (cause, bystander)
    ]
    assert seen[0].low > 0.5
    assert seen[1].high < 0.5
    assert seen[1].low < 0.1


def test_where_dose_moves_both_alike_observation_alone_credits_the_bystander_without_the_control():
    panel = world(1, misalignment=0, latents=1).of(OBSERVED)
    assert partial_correlation(panel, "misalignment", "damage").low > 0.5
    assert partial_correlation(panel, "misalignment", "damage", ("latent_shift",)).low < 0.15


def test_bad_panels_are_refused_and_constants_undefined():
    panel = one({"x": np.array([1.0, np.nan, 2.0]), "y": np.arange(3.0), "c": np.ones(3)})
    with pytest.raises(UserError, match="x of s, a1 is undefined"):
        partial_correlation(panel, "x", "y")
    with pytest.raises(UserError, match="no column 'w'"):
        mediation(panel, "y", "w", "c")
    assert np.isnan(partial_correlation(panel, "y", "c").estimate)
