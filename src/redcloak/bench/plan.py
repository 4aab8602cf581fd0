"""What a run of a matrix would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from redcloak.bench.grid import Matrix
from redcloak.needs import backbone_bytes
from redcloak.runtime.matrix import Node
from redcloak.runtime.plan import Plan
from redcloak.runtime.plan import plan as plan_graph
from redcloak.runtime.store import Store
from redcloak.suite import load


@dataclass(frozen=True)
class MatrixPlan(Plan):
    """What a run of the matrix ``name`` of so many arms would do."""

    name: str
    arms: int


def plan(
    matrix: Matrix,
    store: Store | None,
    workers: int,
    beside: Path,
    targets: Sequence[Node] | None = None,
    anew: bool = False,
) -> MatrixPlan:
    """What a run of ``matrix`` for ``targets`` (all) would do (see :func:`redcloak.runtime.plan.plan`)."""
    targets = matrix.targets() if targets is None else targets
    model = backbone_bytes(load(matrix.config.suite))
    found = plan_graph(matrix.graph, store, workers, beside, targets, anew, model)
    return MatrixPlan(**vars(found), name=matrix.config.name, arms=len(matrix.arms))
