"""What only the store and the graph can tell of arms: seconds, largest changes, shares of gradients, and what ran."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redcloak.bench.grid import Arm
from redcloak.bench.results import Cell
from redcloak.runtime.store import Artifact, Store


@dataclass
class Facts:
    """Of photos: seconds, largest changes, and shares of gradients."""

    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    changes: dict[tuple[str, str, str], int] = field(default_factory=dict)
    gradients: dict[tuple[str, str], float] = field(default_factory=dict)

    @classmethod
    def of(cls, arms: Iterable[Arm], store: Store) -> Facts:
        """Read the manifests of protections and purifiers, each once."""
        facts, seen = cls(), set[tuple[str, ...]]()
        for arm in arms:
            cell = Cell.of(arm.axes)
            for node in (arm.photos, arm.trained_on):
                if node is None:
                    continue
                # Once for each place, not for each artifact, which may have two labels.
                known = (*(cell.photos if node.stage == "purify" else cell[:2]), node.key)
                if known in seen or (found := store.find(node.key)) is None:
                    continue
                seen.add(known)
                notes = found.manifest.notes
                if node.stage == "protect":
                    facts.seconds.setdefault(cell[:2], []).append(found.manifest.wall_seconds)
                    share = notes.get("lens_gradient")
                    if isinstance(share, int | float):
                        facts.gradients[cell[:2]] = min(float(share), facts.gradients.get(cell[:2], 1.0))
                elif node.stage == "purify" and isinstance(change := notes.get("largest_change"), int | float):
                    facts.changes[cell.photos] = max(int(change), facts.changes.get(cell.photos, 0))
        return facts


def ran(arms: Sequence[Arm]) -> dict[str, Any]:
    """What ran in a cell: the resolved settings and the version of every method, as they stand in the keys."""
    if not arms:
        return {}
    arm = arms[0]
    found: dict[str, Any] = {}
    if arm.photos is not None and arm.photos.stage == "protect":
        found["protect"] = dict(arm.photos.config["method"])
    if arm.trained_on is not None and arm.trained_on.stage == "purify":
        found["purify"] = list(arm.trained_on.config["chain"])
    if arm.model is not None:
        found["personalize"] = dict(arm.model.config["method"])
        found["decoupling"] = arm.model.config["decoupling"]
    found["generate"] = {name: arm.images.config[name] for name in ("prompts", "negative", "count", "steps")}
    found["metrics"] = {each["name"]: each for each in arm.scores.config["metrics"]}
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def manifests(arms: Iterable[Arm], store: Store) -> list[Artifact]:
    """What is in the store of these arms, each artifact once."""
    nodes = {node.key: node for arm in arms for node in (*arm.targets, arm.model) if node}
    return [found for key in nodes if (found := store.find(key))]


def seconds(artifacts: Iterable[Artifact]) -> dict[str, float]:
    """The wall time of each stage."""
    spent: dict[str, float] = {}
    for each in artifacts:
        spent[each.manifest.stage] = round(spent.get(each.manifest.stage, 0.0) + each.manifest.wall_seconds, 1)
    return spent
