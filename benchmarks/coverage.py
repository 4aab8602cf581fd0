"""How often do 95% intervals cover the truth? ``python benchmarks/coverage.py`` prints docs/statistics.md's tables.

Draws scores of subjects, seeds of each and pictures of each, around a known mean, asks :mod:`redcloak.stats` for its
interval, and counts. Beside it, on the same data: redrawing seeds within redrawn subjects, which counts the spread of
runs twice, and taking each picture for an independent observation. The second table is of one subject, where the seeds
stand for what is independent; the third of ``recovered``, a ratio; the fourth of ``least_difference``, the number
that a leaderboard picks. ``--tables`` chooses.
"""

from __future__ import annotations

import argparse
from itertools import product
from math import sqrt

import numpy as np
from scipy.special import ndtr, stdtrit

from redcloak.stats import Sample, cluster_bootstrap, least_difference, paired_difference, recovered

SUBJECTS = (2, 3, 4, 5, 6, 8, 10, 12, 16)
RATIOS = (0.5, 1.0, 2.0)  # the SD of runs beside that of subjects
SEEDS, PICTURES = 2, 4
ALONE = (2, 3, 5)  # seeds of one subject
ALONE_RATIOS = (0.3, 1.0, 3.0)  # the SD of runs beside that of pictures
ALONE_PICTURES = 16
REPLICATES = 2000
TAKEN = 0.20  # identity that the protection takes under the strongest red team
TEAMS = ((2, 0.0), (6, 0.0), (6, 0.02), (6, 0.1), (24, 0.0))  # red teams, and how far each is from the next


def draw(rng: np.random.Generator, subjects: int, ratio: float) -> np.ndarray:
    """Scores ``(subjects, seeds, pictures)`` around 0: the subject, its run and its picture each add normal noise."""
    shape = (subjects, SEEDS, PICTURES)
    return rng.normal(size=(subjects, 1, 1)) + ratio * rng.normal(size=(*shape[:2], 1)) + rng.normal(size=shape)


def sample(values: np.ndarray) -> Sample:
    subjects, seeds, _ = np.indices(values.shape).reshape(3, -1)
    return Sample(values.ravel(), subjects, seeds)


def expanded(replicates: np.ndarray, units: int) -> tuple[float, float]:
    tail = max(float(ndtr(-sqrt(units / (units - 1)) * stdtrit(units - 1, 0.975))), 0.001)
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return low, high


def nested(rng: np.random.Generator, values: np.ndarray) -> tuple[float, float]:
    """Subjects drawn again, then seeds within each of them: the expanded percentile of the means."""
    runs = values.mean(axis=2)
    subjects = rng.integers(len(runs), size=(REPLICATES, len(runs), 1))
    seeds = rng.integers(SEEDS, size=(REPLICATES, len(runs), SEEDS))
    return expanded(runs[subjects, seeds].mean(axis=(1, 2)), len(runs))


def naive(values: np.ndarray) -> tuple[float, float]:
    reach = 1.96 * values.std(ddof=1) / sqrt(values.size)
    return values.mean() - reach, values.mean() + reach


def mean_row(subjects: int, ratio: float, runs: int, seed: int) -> list[str]:
    rng, hits = np.random.default_rng([seed, subjects, int(10 * ratio)]), np.zeros(3)
    for _ in range(runs):
        values = draw(rng, subjects, ratio)
        flat = sample(values)
        ours = cluster_bootstrap(flat.values, flat.subjects, subclusters=flat.seeds, n=REPLICATES)
        ends = [(ours.low, ours.high), nested(rng, values), naive(values)]
        hits += [low <= 0 <= high for low, high in ends]
    return [f"{share:.1%}" for share in hits / runs]


def alone_row(seeds: int, ratio: float, runs: int, seed: int) -> str:
    """Coverage of one subject's own mean, from a few training runs of it."""
    rng, hits = np.random.default_rng([seed, seeds, int(10 * ratio)]), 0
    for _ in range(runs):
        run = ratio * rng.normal(size=(1, seeds, 1))
        flat = sample(run + rng.normal(size=(1, seeds, ALONE_PICTURES)))
        found = cluster_bootstrap(flat.values, flat.subjects, subclusters=flat.seeds, n=REPLICATES)
        hits += found.low <= 0 <= found.high
    return f"{hits / runs:.1%}"


def ratio_row(subjects: int, runs: int, seed: int) -> list[str]:
    """Coverage of a share of 75% that was won back, and in how many runs it was undecided."""
    rng, hits, decided = np.random.default_rng([seed, subjects]), 0, 0
    for _ in range(runs):
        person = 0.1 * rng.normal(size=(subjects, 1, 1))
        arms = [sample(person + level + 0.1 * draw(rng, subjects, 0.5)) for level in (0.2, 0.5, 0.6)]
        share = recovered(*arms, n=REPLICATES).share
        decided += share is not None
        hits += share is not None and share.low <= 0.75 <= share.high
    return [f"{hits / decided:.1%}" if decided else "-", f"{1 - decided / runs:.0%}"]


def teams(rng: np.random.Generator, subjects: int, count: int, apart: float) -> list[tuple[Sample, Sample]]:
    """Clean and protected scores under each red team; people, how a team suits one, and runs have an SD of 0.05."""
    clean = 0.05 * (rng.normal(size=(subjects, 1, 1)) + rng.normal(size=(subjects, SEEDS, 1)))
    left = [0.05 * (rng.normal(size=(subjects, 1, 1)) + rng.normal(size=(subjects, SEEDS, 1))) for _ in range(count)]
    return [(sample(0.6 + clean), sample(0.6 - TAKEN - apart * place + each)) for place, each in enumerate(left)]


def smallest(rng: np.random.Generator, pairs: list[tuple[Sample, Sample]], subjects: int) -> tuple[float, float]:
    """Subjects drawn again, the smallest mean picked anew: its expanded percentiles, as they are."""
    gaps = np.stack([(a.values - b.values).reshape(subjects, -1).mean(1) for a, b in pairs], axis=1)
    weights = rng.multinomial(subjects, np.full(subjects, 1 / subjects), size=REPLICATES) / subjects
    return expanded((weights @ gaps).min(axis=1), subjects)


def picked_row(subjects: int, count: int, apart: float, runs: int, seed: int) -> list[str]:
    """The mean of the smallest of several differences, and how often three intervals of it cover the truth."""
    rng, hits, seen = np.random.default_rng([seed, subjects, count, int(100 * apart)]), np.zeros(3), []
    for _ in range(runs):
        pairs = teams(rng, subjects, count, apart)
        ours, at = least_difference(pairs, n=REPLICATES)
        own = paired_difference(*pairs[at or 0], n=REPLICATES)
        seen.append(ours.estimate)
        ends = [(ours.low, ours.high), (own.low, own.high), smallest(rng, pairs, subjects)]
        hits += [low <= TAKEN <= high for low, high in ends]
    return [f"{np.mean(seen):.3f}", *(f"{share:.1%}" for share in hits / runs)]


def means(runs: int, seed: int) -> None:
    print("| subjects | SD of runs / of subjects | redcloak | seeds drawn again too | pictures as independent |")
    print("|---|---|---|---|---|")
    for subjects, ratio in product(SUBJECTS, RATIOS):
        print(f"| {subjects} | {ratio:g} | {' | '.join(mean_row(subjects, ratio, runs, seed))} |", flush=True)


def alone(runs: int, seed: int) -> None:
    heads = [f"SD of runs / of pictures {ratio:g}" for ratio in ALONE_RATIOS]
    print(f"| seeds of one subject | {' | '.join(heads)} |\n|---|---|---|---|")
    for seeds in ALONE:
        print(f"| {seeds} | {' | '.join(alone_row(seeds, ratio, runs, seed) for ratio in ALONE_RATIOS)} |", flush=True)


def shares(runs: int, seed: int) -> None:
    print("| subjects | share won back | undecided |\n|---|---|---|")
    for subjects in SUBJECTS:
        print(f"| {subjects} | {' | '.join(ratio_row(subjects, runs, seed))} |", flush=True)


def picked(runs: int, seed: int) -> None:
    print(f"| subjects | red teams | apart by | mean, of {TAKEN:.3f} | redcloak | its own interval | percentiles |")
    print("|---|---|---|---|---|---|---|")
    for subjects, (count, apart) in product((3, 6, 12), TEAMS):
        row = " | ".join(picked_row(subjects, count, apart, runs, seed))
        print(f"| {subjects} | {count} | {apart:g} | {row} |", flush=True)


TABLES = {"means": means, "alone": alone, "shares": shares, "picked": picked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="simulated studies of each row (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    args = parser.parse_args()
    for name in args.tables:
        TABLES[name](args.runs, args.seed)
        print()


if __name__ == "__main__":
    main()
