from __future__ import annotations

from itertools import product
from math import inf, isinf, isnan, pi, sqrt

import numpy as np
import pytest
from scipy.stats import PermutationMethod, norm, wilcoxon
from statsmodels.stats.multitest import multipletests

from redcloak.stats import (
    Estimate,
    Sample,
    cliffs_delta,
    cohen_dz,
    compare,
    holm,
    power,
    rank_biserial,
    sign_flip,
    signed_rank,
    smallest_effect,
    subject_differences,
    subjects_needed,
)
from redcloak.stats.effects import correction

DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]) / 8  # Fisher 1935, inches of 15 pairs


def arm(means, seeds=2, pictures=2, noise=0.0, seed=0):
    """One sample whose subjects have these means."""
    means = np.asarray(means, dtype=float)
    added = noise * np.random.default_rng(seed).normal(size=(len(means), seeds, pictures))
    subjects, runs, _ = np.indices(added.shape).reshape(3, -1)
    return Sample((means[:, None, None] + added).ravel(), np.char.add("s", subjects.astype(str)), runs)


# Wilcoxon's signed-rank test.


@pytest.mark.parametrize("count", [2, 5, 8, 20, 45])
def test_signed_ranks_are_those_of_scipy(count):
    differences = np.random.default_rng(count).normal(0.3, 1, count)
    assert signed_rank(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue, rel=1e-9)


def test_signed_ranks_are_exact_with_ties_and_leave_zeros_out():
    differences = np.array([1.0, 1.0, -1.0, 2.0, 2.0, 3.0, -3.0, 5.0])
    every = PermutationMethod(n_resamples=2**9)
    assert signed_rank(differences) == pytest.approx(wilcoxon(differences, method=every).pvalue, rel=1e-9)
    assert signed_rank(np.append(differences, [0.0, np.nan])) == signed_rank(differences)


def test_the_published_example_of_darwins_plants():
    # Fisher, The Design of Experiments, 1935, section 21: of 2**15 sign patterns 1726 differ as much; and Wilcoxon's
    # test of the same plants has a sum of negative ranks of 24 and p = 0.041.
    zero = arm(np.zeros(15), 1, 1)
    assert sign_flip(arm(DARWIN, 1, 1), zero, n=200_000) == pytest.approx(1726 / 2**15, abs=0.002)
    assert signed_rank(DARWIN) == pytest.approx(0.0413, abs=2e-4)


def test_a_test_that_cannot_be_made_is_nan_and_no_difference_is_no_evidence():
    assert isnan(signed_rank(np.array([0.4])))
    assert isnan(signed_rank(np.array([0.4, np.nan])))
    assert signed_rank(np.zeros(5)) == 1.0


def test_false_positives_stay_at_their_level():
    draws = np.random.default_rng(1).normal(size=(4000, 9))
    assert np.mean([signed_rank(each) <= 0.05 for each in draws]) == pytest.approx(0.05, abs=0.015)


# Holm's correction.


@pytest.mark.parametrize("ps", [[0.01, 0.04, 0.03, 0.005], [0.5, 0.9], [0.02] * 4, [0.2], []])
def test_holm_is_that_of_statsmodels(ps):
    expected = multipletests(ps, method="holm")[1] if ps else []
    assert holm(ps) == pytest.approx(list(expected))


def test_holm_leaves_out_what_was_not_tested():
    assert holm([0.01, np.nan, 0.04])[::2] == pytest.approx([0.02, 0.04])
    assert isnan(holm([0.01, np.nan])[1])


# Effect sizes.


def test_the_correction_for_few_is_hedges_table():
    # Hedges 1981, table 1: c(m) for m = 2, 5, 10, 20 and 50 degrees of freedom.
    expected = {2: 0.5642, 5: 0.8408, 10: 0.9228, 20: 0.9619, 50: 0.9849}
    for degrees, value in expected.items():
        assert correction(degrees) == pytest.approx(value, abs=1e-4)


def test_cohens_dz_is_unbiased_and_its_interval_covers():
    draws = np.random.default_rng(2).normal(0.8, 1, (600, 6))
    found = [cohen_dz(each) for each in draws]
    assert np.mean([each.estimate for each in found]) == pytest.approx(0.8, abs=0.07)
    assert np.mean([each.low <= 0.8 <= each.high for each in found]) == pytest.approx(0.95, abs=0.03)


def test_the_interval_of_dz_excludes_0_exactly_where_the_t_test_rejects():
    base = np.random.default_rng(3).normal(size=10)
    base = (base - base.mean()) / base.std(ddof=1)
    for t, excluded in ((2.2621, False), (2.2623, True)):  # the 97.5% point of t with 9 degrees is 2.26216
        assert (cohen_dz(base + t / sqrt(10)).low > 0) == excluded


def test_dz_of_extremes():
    assert isnan(cohen_dz(np.array([1.0, 2.0])).estimate)
    assert cohen_dz(np.full(4, 0.5)).estimate == inf
    assert cohen_dz(np.zeros(4)).estimate == 0.0
    far = cohen_dz(100 + np.random.default_rng(4).normal(size=8))
    assert 20 < far.low < far.estimate < far.high


def test_rank_biserial_is_the_simple_difference():
    assert rank_biserial(DARWIN) == pytest.approx((96 - 24) / 120)
    assert rank_biserial(-DARWIN) == pytest.approx(-0.6)
    assert rank_biserial(np.array([1.0, 2.0, 0.0])) == 1.0
    assert isnan(rank_biserial(np.zeros(3)))


def test_cliffs_delta_counts_pairs():
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 6, 8).astype(float), rng.integers(0, 6, 5).astype(float)
    expected = np.mean([int(x > y) - int(x < y) for x, y in product(a, b)])
    assert cliffs_delta(a, b) == pytest.approx(expected)
    assert cliffs_delta(a + 9, b) == 1.0
    assert isnan(cliffs_delta(a, np.array([np.nan])))


# What could have been found.


@pytest.mark.parametrize(("subjects", "alpha"), [(6, 0.05), (8, 0.05 / 4)])
def test_with_the_fewest_subjects_power_is_the_chance_that_all_signs_agree(subjects, alpha):
    for effect in (0.0, 0.7, 1.5):
        assert power(effect, subjects, alpha) == pytest.approx(norm.cdf(effect) ** subjects, abs=0.015)
    assert smallest_effect(subjects, alpha) == pytest.approx(norm.ppf(0.8 ** (1 / subjects)), abs=0.03)
    assert power(-0.7, subjects, alpha) == power(0.7, subjects, alpha)


def test_many_subjects_approach_the_formula_of_the_tests_efficiency():
    # Beside a t test the signed-rank test needs pi / 3 times as many normal differences.
    expected = (norm.isf(0.025) + norm.isf(0.2)) * sqrt(pi / 3 / 60)
    assert smallest_effect(60) == pytest.approx(expected, rel=0.03)


def test_a_test_that_cannot_reach_its_level_finds_nothing():
    assert (power(9.0, 5), smallest_effect(5)) == (0.0, inf)
    assert isnan(smallest_effect(1))
    assert isnan(power(1.0, 1))


def test_the_fewest_subjects_are_where_the_smallest_p_reaches_the_level():
    for tests in (1, 2, 6, 10):
        needed = subjects_needed(tests)
        reachable = [max(holm([signed_rank(np.arange(1.0, count + 1))] * tests)) for count in (needed - 1, needed)]
        assert reachable[0] > 0.05 >= reachable[1]


# A family of comparisons.


def test_a_family_says_which_arms_differ():
    base = np.random.default_rng(6).normal(0.5, 0.1, 10)
    clean = arm(base, noise=0.01)
    family = {
        "much": (clean, arm(base - 0.3, noise=0.05, seed=1)),
        "same": (clean, arm(base, noise=0.05, seed=2)),
    }
    found = compare(family)
    assert [found[name].differs for name in family] == [True, False]
    assert found["much"].adjusted == pytest.approx(2 * found["much"].p)
    assert found["much"].difference.estimate == pytest.approx(0.3, abs=0.04)
    assert found["much"].rank_biserial == 1.0
    assert found["much"].cliffs_delta > 0.8
    assert (found["same"].tests, found["same"].subjects, found["same"].needed) == (2, 10, 7)
    assert compare(family) == found


@pytest.mark.parametrize(("subjects", "tests"), [(6, 1), (8, 4), (16, 4)])
def test_the_detectable_difference_is_found_in_80_of_100_studies(subjects, tests):
    rng = np.random.default_rng([7, subjects])
    seen = rng.normal(0, 0.2, subjects)
    pair = arm(seen, 1, 1), arm(np.zeros(subjects), 1, 1)
    detectable = compare(dict.fromkeys(map(str, range(tests)), pair))["0"].detectable
    studies = rng.normal(detectable, seen.std(ddof=1), (4000, subjects))
    found = wilcoxon(studies, method="exact", axis=1).pvalue <= 0.05 / tests
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


def test_a_study_too_small_for_its_test_can_find_nothing():
    few = compare({"x": (arm([0.5, 0.6, 0.4]), arm([0.1, 0.1, 0.2]))})["x"]
    assert isinf(few.detectable)
    assert not few.differs
    one = compare({"x": (arm([0.5], noise=0.1), arm([0.1], noise=0.1, seed=1))})["x"]
    assert isnan(one.p)
    assert isnan(one.detectable)
    assert (one.subjects, one.tests, one.difference.over) == (1, 0, "seeds")


def test_subjects_of_one_arm_alone_are_named():
    a, b = arm([0.1, 0.2, 0.3, 0.4]), arm([0.1, 0.2, 0.3])
    b.values[b.subjects == "s1"] = np.nan
    found = compare({"x": (a, b)})["x"]
    assert (found.subjects, found.left_out) == (2, ("s1", "s3"))
    assert list(subject_differences(a, b)) == ["s0", "s2"]


def test_an_estimate_says_what_it_rests_on():
    assert Estimate(0.5, 0.4, 0.6, 6).words == "0.500 [0.400, 0.600] over 6 subjects"
    assert Estimate(0.5, np.nan, np.nan, 1, over="pictures").words == "0.500 (1 picture: no interval)"
    assert Estimate(0.9, 0.5, 1.3, 3).within(0, 1).high == 1
