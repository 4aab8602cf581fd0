"""What of the spread of runs is common to all people of a seed? ``python benchmarks/seeds.py SCORES.parquet ...``.

Under ``common_seeds`` a seed draws the same noise and order of pictures for everybody, else for each person their own:
then expect about 0 for what seeds have in common. ``x[arm, person, seed]``, the mean over pictures, is taken apart by a
two-way analysis of variance without replication, pooled over arms:

    x = mean + person + seed + rest,    persons, seeds and rest random

Printed are the standard deviations of each. Only the persons' and the rest average out over persons: intervals that
are clustered by person hold for the seeds as they were drawn.

Cite: Searle, Casella and McCulloch, "Variance Components", 1992, chapter 4.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

METRICS = ("identity_zero", "quality")


def components(tables: Sequence[NDArray[np.float64]]) -> tuple[float, float, float]:
    """The standard deviations of persons, seeds and the rest, pooled over arms: each table is ``(persons, seeds)``."""
    squares = np.zeros(3)
    for table in tables:
        people, seeds = table.shape
        by_person, by_seed = table.mean(1, keepdims=True), table.mean(0, keepdims=True)
        rest = table - by_person - by_seed + table.mean()
        between = seeds * np.var(by_person, ddof=1), people * np.var(by_seed, ddof=1)
        squares += *between, (rest**2).sum() / ((people - 1) * (seeds - 1))
    person, seed, rest = squares / len(tables)
    people, seeds = np.mean([table.shape for table in tables], axis=0)
    return sqrt(max(person - rest, 0.0) / seeds), sqrt(max(seed - rest, 0.0) / people), sqrt(rest)


def tables_of(path: Path, metric: str, against: str | None = None) -> list[NDArray[np.float64]]:
    """Of every arm that has several seeds of several people, the means ``(persons, seeds)``; minus ``against``'s."""
    rows = pq.read_table(path).to_pandas()
    rows = rows[(rows.source == "generated") & (rows.metric == metric)]
    means = rows.groupby(["arm", "subject", "seed"], observed=True).value.mean().unstack("seed")
    if against:
        means = means.sub(means.loc[against], level="subject").drop(index=against)
    arms = (arm.dropna(axis=1, how="all").dropna() for _, arm in means.groupby(level="arm", observed=True))
    return [arm.to_numpy() for arm in arms if min(arm.shape) > 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", nargs="+", type=Path, help="scores.parquet of a benchmark or an audit")
    parser.add_argument("--against", metavar="ARM", help="take differences to this arm, as comparisons do")
    args = parser.parse_args()
    heads = ("scores", "metric", "arms", "SD of persons", "SD of seeds, common to all", "SD of the rest")
    print(f"| {' | '.join(heads)} |\n" + "|---" * len(heads) + "|")
    for path in args.scores:
        for metric in METRICS:
            if tables := tables_of(path, metric, args.against):
                cells = " | ".join(f"{value:.3f}" for value in components(tables))
                print(f"| {path} | {metric} | {len(tables)} | {cells} |")
            else:
                print(f"{path}: no arm has several seeds of several people in {metric}", file=sys.stderr)


if __name__ == "__main__":
    main()
