"""The benchmark of face back ends, on planted embeddings whose answers are known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from redcloak.models.faces import Faces
from redcloak.stats import cluster_bootstrap, dyadic_bootstrap

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def identities() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield __import__("identities")
    for module in [name for name, each in sys.modules.items() if str(BENCHMARKS) in str(getattr(each, "__file__", ""))]:
        del sys.modules[module]


def faces(*degrees: float | None) -> Faces:
    """A person's photos, their embeddings at these angles in a plane; None: no face."""
    angles = torch.tensor([torch.nan if each is None else each for each in degrees]).deg2rad()
    return Faces(torch.stack([angles.cos(), angles.sin()], 1), (~angles.isnan()).float())


def test_rank_1_is_the_share_of_people_found_by_their_second_photo(identities: ModuleType):
    rank_1 = lambda *people: identities.Cosines(people).rank_1()  # noqa: E731 - a name for the brackets
    assert rank_1(faces(0, 5), faces(90, 80), faces(180, 175)) == 1
    assert rank_1(faces(0, 5), faces(90, 10), faces(180, 175)) == pytest.approx(2 / 3)
    assert rank_1(faces(0, 5), faces(90, None), faces(None, 175)) == pytest.approx(1 / 3)


def test_pairs_go_to_both_of_their_people(identities: ModuleType):
    values, first, second = identities.Cosines([faces(0, 60), faces(90, None), faces(180, 120)]).side(False)
    cosines: dict[tuple[int, int], list[float]] = {}
    for one, other, value in zip(first.tolist(), second.tolist(), values.tolist(), strict=True):
        cosines.setdefault((one, other), []).append(value)
    assert sorted(cosines[0, 1]) == pytest.approx([0, 0.866025], abs=1e-5)
    assert sorted(cosines[0, 2]) == pytest.approx([-1, -0.5, -0.5, 0.5], abs=1e-5)
    assert sorted(cosines[1, 2]) == pytest.approx([0, 0.866025], abs=1e-5)
    assert len(cosines) == 3


def test_the_equal_error_rate(identities: ModuleType):
    error = identities.equal_error
    assert error(np.array([0.8, 0.9]), np.array([0.1, 0.2, 0.3])) == 0
    assert error(np.array([0.3, 0.8, 0.9]), np.array([0.1, 0.2, 0.5])) == pytest.approx(1 / 3)
    assert error(np.array([0.1, 0.2]), np.array([0.8, 0.9])) == 1
    drawn = np.random.default_rng(0).normal(size=(2, 20_000))
    assert error(drawn[0] + 2, drawn[1]) == pytest.approx(0.1587, abs=0.01)  # Phi(-1)


def test_the_interval_does_not_hang_on_who_comes_first(identities: ModuleType):
    """The last person is like everybody: clustered by the first of a pair, that weighs next to nothing."""
    stream = torch.Generator().manual_seed(0)
    people = [torch.randn(2, 32, generator=stream) for _ in range(12)]
    people[-1] = people[-1] * 0.1 + sum(each.mean(0) for each in people[:-1])
    planted = [Faces(each / each.norm(dim=1, keepdim=True), torch.ones(2)) for each in people]
    ways = [identities.Cosines(order).side(False) for order in (planted, planted[::-1])]
    ours = [dyadic_bootstrap(*way, n=5000) for way in ways]
    assert ours[0].estimate == pytest.approx(ours[1].estimate) == pytest.approx(ways[0][0].mean())
    assert (ours[0].low, ours[0].high) == pytest.approx((ours[1].low, ours[1].high), abs=0.01)
    by_first = [cluster_bootstrap(*way[:2]) for way in ways]
    assert abs(by_first[0].estimate - by_first[1].estimate) > 0.02, "what the benchmark once did"


def test_a_row_has_the_interval_of_pairs(identities: ModuleType):
    class Backend:
        same = 0.5

        def __call__(self, images: Tensor) -> Faces:
            return faces(*images.tolist())

    photos = [torch.tensor(each) for each in ([0.0, 10.0], [90.0, 100.0], [180.0, 170.0], [270.0, 280.0])]
    row, cosines = identities.row_of("planted", Backend(), photos)
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    assert cells[1:3] == ["8 of 8", "100.0%"]
    assert cells[4] == str(dyadic_bootstrap(*cosines.side(False)))


def test_means_over_pictures_say_so_where_there_are_none(identities: ModuleType):
    assert identities.over_pictures(np.full(4, np.nan)) == "undefined"
    assert identities.over_pictures(np.array([0.5, 0.5, np.nan])) == "0.500 [0.500, 0.500]"
    values = np.array([0.1, 0.3, 0.2, 0.4])
    assert identities.over_pictures(values) == str(cluster_bootstrap(values, np.zeros(4)))
