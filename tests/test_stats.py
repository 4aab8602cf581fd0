from __future__ import annotations

import re
from math import isnan, sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, permutation_test, ttest_1samp
from scipy.stats import t as student
from statsmodels.regression.linear_model import OLS

from redcloak.stats import (
    Sample,
    cluster_bootstrap,
    dyadic_bootstrap,
    for_every_seed,
    least_difference,
    mean,
    paired_difference,
    recovered,
    sign_flip,
)
from redcloak.stats.bootstrap import FEW, _percentile

DOCS = Path(__file__).parents[1] / "docs"


def nested(rng, subjects=8, seeds=2, pictures=8, level=0.0, between=0.1, runs=0.05, within=0.1):
    """Normal data with a subject, a seed and a picture effect: values ``(subjects, seeds, pictures)``."""
    return (
        level
        + between * rng.normal(size=(subjects, 1, 1))
        + runs * rng.normal(size=(subjects, seeds, 1))
        + within * rng.normal(size=(subjects, seeds, pictures))
    )


def sample(values):
    subjects, seeds, pictures = values.shape
    return Sample(
        values.ravel(),
        np.repeat([f"s{number}" for number in range(subjects)], seeds * pictures),
        np.tile(np.repeat(np.arange(seeds), pictures), subjects),
    )


def bootstrap(values, **settings):
    flat = sample(values)
    return cluster_bootstrap(flat.values, flat.subjects, subclusters=flat.seeds, **settings)


def covers(interval, truth=0.0):
    return interval.low <= truth <= interval.high


def dyads(rng, units=20, own=0.1, within=0.1):
    """Values ``own_i + own_j + noise`` of all pairs around 0, and the two units of each."""
    first, second = np.triu_indices(units, 1)
    effects = own * rng.normal(size=units)
    return effects[first] + effects[second] + within * rng.normal(size=len(first)), first, second


def test_the_interval_of_pairs_covers_the_truth_as_often_as_it_says_and_one_over_first_units_does_not():
    rng = np.random.default_rng(5)
    runs = 500
    both = first_alone = 0
    for _ in range(runs):
        values, first, second = dyads(rng)
        both += covers(dyadic_bootstrap(values, first, second, n=1000))
        first_alone += covers(cluster_bootstrap(values, first, n=1000))
    assert 0.92 <= both / runs <= 0.98
    assert first_alone / runs < 0.85


def test_couples_of_units_count_the_same_and_nothing_hangs_on_their_order():
    values, first, second = np.array([1.0, 3.0, 5.0, 6.0, np.nan]), np.array(list("aabbc")), np.array(list("bbcad"))
    found = dyadic_bootstrap(values, first, second)
    assert found.estimate == pytest.approx(((1 + 3 + 6) / 3 + 5) / 2)
    assert found.clusters == 3
    assert dyadic_bootstrap(values, second, first) == found
    with pytest.raises(ValueError, match="one unit twice"):
        dyadic_bootstrap(values, first, first)
    assert isnan(dyadic_bootstrap(values[:1], first[:1], second[:1]).low)
    assert isnan(dyadic_bootstrap(values[4:], first[4:], second[4:]).estimate)


def test_the_interval_covers_the_truth_as_often_as_it_says_and_the_iid_bootstrap_does_not():
    rng = np.random.default_rng(3)
    runs = 1000
    clustered = iid = 0
    for _ in range(runs):
        values = nested(rng)
        clustered += covers(bootstrap(values, n=1000))
        iid += covers(cluster_bootstrap(values.ravel(), np.arange(values.size), n=50))
    assert 0.92 <= clustered / runs <= 0.98
    assert iid / runs < 0.65


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("subjects", [4, 8, 16])
def test_95_percent_is_93_to_97_however_much_runs_differ(subjects, ratio):
    rng = np.random.default_rng([4, subjects])
    runs, draws = 2000, 2000
    pictures = nested_many(rng, runs, subjects, ratio)
    if subjects < FEW:
        hits = [covers(bootstrap(values)) for values in pictures]
    else:  # the same percentiles, of all studies at once
        weights = rng.multinomial(subjects, np.full(subjects, 1 / subjects), size=draws) / subjects
        replicates = pictures.mean(axis=(2, 3)) @ weights.T
        hits = [covers(_percentile(0.0, row, subjects, "subjects")) for row in replicates]
    assert 0.93 <= np.mean(hits) <= 0.97


def nested_many(rng, runs, subjects, ratio):
    return (
        rng.normal(size=(runs, subjects, 1, 1))
        + ratio * rng.normal(size=(runs, subjects, 2, 1))
        + rng.normal(size=(runs, subjects, 2, 2))
    )


@pytest.mark.parametrize("subjects", [2, 3, 5, 7])
def test_few_subjects_have_the_t_interval_of_their_means(subjects):
    values = nested(np.random.default_rng(subjects), subjects, seeds=3)
    means = values.mean(axis=(1, 2))
    reference = ttest_1samp(means, 0.0).confidence_interval(0.95)
    found = bootstrap(values)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), rel=1e-9)


def test_the_interval_of_few_subjects_is_the_cluster_robust_one_of_a_regression():
    values = nested(np.random.default_rng(21), 6, seeds=2, pictures=3)
    flat = sample(values)
    groups = np.unique(flat.subjects, return_inverse=True)[1]
    fit = OLS(flat.values, np.ones(len(groups))).fit(cov_type="cluster", cov_kwds={"groups": groups})
    found = bootstrap(values)
    assert found.high - found.estimate == pytest.approx(student.isf(0.025, 5) * fit.bse[0], rel=1e-6)


def test_replicates_have_the_variance_between_subjects_and_count_runs_once():
    values = nested(np.random.default_rng(5), subjects=30, seeds=4, pictures=3)
    drawn = recorded(values, n=20_000)
    between = values.mean(axis=(1, 2)).var() / 30
    assert drawn[1].var() == pytest.approx(between, rel=0.04)
    assert between > 5 * values.var() / values.size


def test_subjects_are_drawn_whole():
    whole = np.arange(20.0) ** 2  # ten subjects of two seeds each
    drawn = []

    def recording(data, weights):
        drawn.append((data, weights))
        return mean(data, weights)

    cluster_bootstrap(whole, np.repeat(np.arange(10), 2), recording, np.tile([0, 1], 10), n=50)
    weights = drawn[1][1]
    np.testing.assert_array_equal(weights[:, 0::2], weights[:, 1::2])
    assert len(np.unique(np.rint(weights * 20))) > 2


def recorded(values, **settings):
    drawn = []

    def recording(data, weights):
        drawn.append(mean(data, weights))
        return drawn[-1]

    bootstrap(values, statistic=recording, **settings)
    return drawn


def test_rows_of_weights_sum_to_one_at_every_level():
    for shape in [(5, 3, 2), (1, 3, 4), (1, 1, 6)]:
        sums = []

        def recording(data, weights, sums=sums):
            sums.append(weights.sum(axis=1))
            return mean(data, weights)

        bootstrap(np.zeros(shape), statistic=recording, n=50)
        np.testing.assert_allclose(np.concatenate(sums), 1.0, atol=1e-12)


def test_subjects_count_the_same_however_many_pictures_they_have():
    values = np.array([1.0, 1.0, 1.0, 1.0, 3.0])
    interval = cluster_bootstrap(values, np.array(["a", "a", "a", "a", "b"]))
    assert interval.estimate == 2.0
    assert interval.high == pytest.approx(2.0 + student.isf(0.025, 1))
    assert interval.clusters == 2


def test_subjects_count_the_same_however_many_seeds_they_have():
    values, seeds = np.array([1.0, 1.0, 1.0, 3.0]), np.array([0, 1, 2, 0])
    interval = cluster_bootstrap(values, np.array(["a", "a", "a", "b"]), subclusters=seeds)
    assert interval.estimate == pytest.approx(2.0)
    assert interval.high == pytest.approx(2.0 + student.isf(0.025, 1))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = nested(np.random.default_rng(6))
    assert bootstrap(values, seed=7) == bootstrap(values, seed=7)
    assert bootstrap(values, seed=7).low != bootstrap(values, seed=8).low


def test_one_subject_speaks_of_its_seeds_and_one_seed_of_its_pictures():
    rng = np.random.default_rng(7)
    seeds = bootstrap(nested(rng, subjects=1, seeds=3))
    assert (seeds.over, seeds.clusters) == ("seeds", 3)
    pictures = bootstrap(nested(rng, subjects=1, seeds=1, pictures=6))
    assert (pictures.over, pictures.clusters) == ("pictures", 6)
    assert pictures.low < pictures.estimate < pictures.high


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("column", [0, 2])
def test_one_subject_is_covered_as_often_as_the_docs_say(seeds, column):
    ratios, documented = one_subject(seeds)
    rng, runs = np.random.default_rng([8, seeds, column]), 500
    studies = (nested(rng, 1, seeds, 16, between=0, runs=ratios[column], within=1) for _ in range(runs))
    found = np.mean([covers(bootstrap(values)) for values in studies])
    assert found == pytest.approx(documented[column], abs=0.05)


def one_subject(seeds):
    """The ratios in the head of the docs' table of one subject, and what it says of so many seeds."""
    table = (DOCS / "statistics.md").read_text().split("| seeds of one subject ")[1].splitlines()
    (row,) = [line for line in table if line.startswith(f"| {seeds} |") and line.count("%") == 3]
    shares = [float(share) / 100 for share in re.findall(r"([\d.]+)%", row)]
    return [float(ratio) for ratio in re.findall(r"pictures ([\d.]+)", table[0])], shares


def test_one_picture_has_no_interval_and_no_picture_has_no_estimate():
    single = bootstrap(np.array([[[0.4]]]))
    assert single.estimate == 0.4
    assert isnan(single.low)
    assert isnan(single.high)
    nothing = bootstrap(np.array([[[np.nan]]]))
    assert isnan(nothing.estimate)
    assert nothing.clusters == 0


def test_nan_is_left_out_and_a_subject_of_nan_with_it():
    values = nested(np.random.default_rng(9), subjects=4, seeds=2, pictures=3)
    values[3] = np.nan
    values[0, 0, 1] = np.nan
    found = bootstrap(values)
    assert found.clusters == 3
    assert found.estimate == pytest.approx(np.nanmean(np.nanmean(values[:3], axis=2), axis=1).mean())
    assert not isnan(found.low)


def test_pairing_cancels_what_the_arms_share():
    rng = np.random.default_rng(20)
    base = nested(rng, between=0.5, runs=0.3, within=0.0)
    a, b = sample(base + 0.1), sample(base + 0.01 * rng.normal(size=base.shape))
    paired = paired_difference(a, b)
    assert covers(paired, 0.1)
    assert paired.high - paired.low < 0.02
    alone = bootstrap(base)
    assert alone.high - alone.low > 10 * (paired.high - paired.low)


def test_pairs_that_only_one_arm_has_are_left_out():
    a = Sample(np.array([1.0, 9.0, 2.0]), np.array(["x", "x", "y"]), np.array([0, 1, 0]))
    b = Sample(np.array([0.5, 1.0, 7.0]), np.array(["x", "y", "z"]), np.array([0, 0, 0]))
    found = paired_difference(a, b)
    assert found.estimate == pytest.approx(0.75)
    assert found.clusters == 2
    assert paired_difference(a, Sample(b.values, np.array(["p", "q", "r"]), b.seeds)).clusters == 0


def teams(rng, subjects, count, apart=0.0):
    """Clean and treated arms ``0.2 + apart * place`` below, of as many red teams."""
    clean = nested(rng, subjects, pictures=1, between=0.05, within=0)
    left = [nested(rng, subjects, pictures=1, between=0.05, within=0) for _ in range(count)]
    return [(sample(0.6 + clean), sample(0.4 - apart * place + each)) for place, each in enumerate(left)]


@pytest.mark.parametrize(("subjects", "count"), [(3, 6), (6, 6), (12, 24)])
def test_the_interval_of_the_smallest_difference_covers_the_truth_and_its_own_does_not(subjects, count):
    rng = np.random.default_rng([12, subjects])
    ours, own, seen = [], [], []
    for _ in range(150):
        pairs = teams(rng, subjects, count)
        found, at = least_difference(pairs, n=1000)
        alone = paired_difference(*pairs[at], n=1000)
        assert (found.estimate, found.low, found.clusters) == (alone.estimate, alone.low, alone.clusters)
        seen.append(found.estimate)
        ours.append(covers(found, 0.2))
        own.append(covers(alone, 0.2))
    assert np.mean(ours) >= 0.92
    assert np.mean(own) <= np.mean(ours) - 0.03
    assert np.mean(seen) < 0.185  # the number itself stays low, as the docs say


def test_the_smallest_of_differences_that_lie_apart_has_about_its_own_interval():
    pairs = teams(np.random.default_rng(13), 6, 4, apart=0.5)
    found, at = least_difference(pairs)
    alone = paired_difference(*pairs[0])
    assert at == 0
    assert found.high - found.estimate == pytest.approx(alone.high - alone.estimate, rel=0.1)
    assert least_difference(pairs[:1]) == (alone, 0)
    single = [(a.only("s0"), b.only("s0")) for a, b in pairs]
    assert least_difference(single) == (paired_difference(*single[0]), 0)


def test_the_smallest_difference_is_of_the_runs_that_all_pairs_have():
    clean, treated = teams(np.random.default_rng(14), 5, 1)[0]
    short = Sample(treated.values[2:] + 0.1, treated.subjects[2:], treated.seeds[2:])  # without the first subject
    found, at = least_difference([(clean, treated), (clean, short)])
    assert (at, found.clusters) == (1, 4)
    assert found.estimate == pytest.approx(paired_difference(clean, short).estimate)
    other = Sample(short.values[:2], np.array(["x", "x"]), short.seeds[:2])
    for pairs in ([], [(clean, treated), (other, other)]):
        none, at = least_difference(pairs)
        assert (isnan(none.estimate), none.clusters, at) == (True, 0, None)


def test_an_arm_without_seeds_counts_for_every_seed():
    trained = sample(np.array([[[1.0], [3.0]], [[2.0], [6.0]]]))
    floor = sample(np.array([[[0.5]], [[1.5]]]))
    assert paired_difference(trained, floor).estimate == pytest.approx((0.5 + 0.5) / 2)
    spread = for_every_seed(floor, trained)
    assert paired_difference(trained, spread).estimate == pytest.approx((1.5 + 2.5) / 2)
    assert for_every_seed(trained, floor) is trained
    nobody = for_every_seed(Sample(np.zeros(0), np.zeros(0, str), np.zeros(0, int)), trained)
    assert len(nobody.values) == 0


@pytest.mark.parametrize("subjects", [4, 8, 16])
def test_the_recovered_share_is_found_with_an_interval_that_covers_it(subjects):
    rng = np.random.default_rng([11, subjects])
    hits, runs = 0, 400
    for _ in range(runs):
        base = nested(rng, subjects, pictures=4)
        arms = [sample(base + level + 0.05 * rng.normal(size=base.shape[:2])[..., None]) for level in (0.2, 0.5, 0.6)]
        share = recovered(*arms, n=500).share
        assert share is not None
        hits += covers(share, 0.75)
    assert 0.92 <= hits / runs <= 0.98


def test_nothing_can_be_won_back_where_nothing_was_taken():
    rng = np.random.default_rng(12)
    arms = [sample(nested(rng, level=0.5)) for _ in range(3)]
    found = recovered(*arms)
    assert found.loss.low < 0 < found.loss.high
    assert found.share is None
    assert str(found) == "undecided"


def test_one_replicate_without_any_effect_does_not_undo_the_interval():
    learned = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 1.0]).reshape(6, 1, 1)  # 1 in 6**6 draws has no effect at all
    arms = [sample(level * learned) for level in (0.0, 0.5, 1.0)]
    share = recovered(*arms, n=200_000).share
    assert share is not None
    assert (share.low, share.high) == (0.5, 0.5)


def test_a_recovery_reads_as_percent():
    a, b, c = (sample(np.full((3, 2, 2), level)) for level in (0.0, 0.5, 1.0))
    assert str(recovered(a, b, c)) == "50% [50%, 50%]"


def test_sign_flips_are_exact_for_few_subjects():
    rng = np.random.default_rng(13)
    a, b = nested(rng, subjects=7, level=0.1), nested(rng, subjects=7)
    gaps = (a - b).mean(axis=(1, 2))
    reference = permutation_test((gaps,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(sample(a), sample(b)) == pytest.approx(reference.pvalue)
    assert sign_flip(sample(a + 9), sample(a)) == pytest.approx(2 ** (1 - 7))
    assert sign_flip(sample(a), sample(a)) == 1.0


def test_sign_flips_are_sampled_for_many_subjects_and_useless_for_one():
    rng = np.random.default_rng(14)
    base = nested(rng, subjects=40, between=0.3, within=0.0)
    noisy = base + 0.03 + 0.1 * rng.normal(size=(40, 1, 1))
    p = sign_flip(sample(noisy), sample(base))
    gaps = (noisy - base).mean(axis=(1, 2))
    z = abs(gaps.mean()) / sqrt((gaps**2).mean() / 40)
    assert p == pytest.approx(2 * norm.sf(z), abs=0.02)
    assert p == sign_flip(sample(noisy), sample(base))
    assert isnan(sign_flip(sample(base[:1]), sample(base[:1])))


def test_false_positives_of_the_sign_flip_test_stay_at_their_level():
    rng = np.random.default_rng(15)
    ps = [sign_flip(sample(nested(rng, pictures=2)), sample(nested(rng, pictures=2))) for _ in range(300)]
    assert np.mean(np.array(ps) <= 0.05) <= 0.09
