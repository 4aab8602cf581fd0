"""benchmarks/seeds.py: what is planted in persons, seeds and the rest is found there."""

import sys
from pathlib import Path

import numpy as np
import pytest

from redcloak.report.table import Row, Table

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def seeds(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("seeds")
    del sys.modules["seeds"]


@pytest.mark.parametrize(("person", "seed", "rest"), [(0.08, 0.01, 0.05), (0.1, 0.3, 0.2), (0.0, 0.0, 1.0)])
def test_planted_components_are_found(seeds, person, seed, rest):
    rng = np.random.default_rng(0)
    tables = [
        person * rng.normal(size=(6, 1)) + seed * rng.normal(size=(1, 2)) + rest * rng.normal(size=(6, 2))
        for _ in range(1500)
    ]
    planted = np.square((person, seed, rest))
    assert np.square(seeds.components(tables)) == pytest.approx(planted, abs=0.08 * planted.max())


def test_only_arms_with_several_seeds_of_several_people_count(seeds, tmp_path, capsys, monkeypatch):
    rows = [
        Row(f"s{person}", arm, seed, "generated", "", f"{picture}.png", "quality", float(runs * person + seed))
        for arm, runs in (("clean", 2), ("noise", 2), ("untuned", 1))
        for person in range(3)
        for seed in range(runs)
        for picture in range(2)
    ]
    Table.of(rows).write(tmp_path / "scores.parquet")
    first, second = seeds.tables_of(tmp_path / "scores.parquet", "quality")
    assert first.tolist() == second.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    (difference,) = seeds.tables_of(tmp_path / "scores.parquet", "quality", "clean")
    assert difference.tolist() == [[0.0, 0.0]] * 3
    monkeypatch.setattr(sys, "argv", ["seeds.py", str(tmp_path / "scores.parquet")])
    seeds.main()
    told = capsys.readouterr()
    assert "| quality | 2 | 2.000 | 0.707 | 0.000 |" in told.out
    assert "several seeds" in told.err
