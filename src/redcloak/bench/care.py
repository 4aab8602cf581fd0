"""Why a result is in a store or not, and whether all that is there is whole."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from redcloak.bench.compare import changes
from redcloak.bench.grid import Matrix
from redcloak.errors import UserError
from redcloak.runtime.manifest import Manifest
from redcloak.runtime.matrix import Node
from redcloak.runtime.store import Store

Known = Mapping[str, Manifest]
FAR = 10  # fields: what another kind of input counts as
SHORT = 12  # digits of a key that people see


@dataclass(frozen=True)
class Why:
    """Whether a node is there; where it is not, the fields in which it differs from the nearest result that is.

    ``fields`` holds (field, wanted, there). ``inputs`` goes on with the inputs that differ, by name.
    """

    node: Node
    hit: bool
    failed: str = ""
    nearest: str = ""
    fields: tuple[tuple[str, Any, Any], ...] = ()
    inputs: tuple[tuple[str, Why], ...] = ()


def find_node(matrix: Matrix, name: str) -> Node:
    """The node of a matrix by its label or the beginning of it, or by the beginning of its key.

    Raises:
        UserError: none, or several.
    """
    nodes = matrix.graph.order()
    ways: tuple[Callable[[Node], bool], ...] = (
        lambda node: node.label == name,
        lambda node: node.label.startswith(f"{name}, "),
        lambda node: node.label.startswith(name) or (len(name) >= 4 and node.key.startswith(name)),
    )
    found = next((some for way in ways if (some := [node for node in nodes if way(node)])), [])
    if len(found) == 1:
        return found[0]
    if not found:
        near = difflib.get_close_matches(name, dict.fromkeys(node.label for node in nodes), n=3, cutoff=0.3)
        raise UserError(f"no stage {name!r} in {matrix.config.name}: did you mean {' or '.join(map(repr, near))}?")
    listed = ", ".join(f"{node.label!r} ({node.key[:SHORT]})" for node in found[:4])
    raise UserError(f"{name!r} names {len(found)} stages; give one of them: {listed}{', ...' if found[4:] else ''}.")


def why(node: Node, store: Store) -> Why:
    """Why a node is a hit or a miss."""
    if store.find(node.key) is not None:
        return Why(node, True)
    failed = store.failures.get(node.key)
    known = {manifest.key: manifest for manifest in store.manifests()}
    rivals = [manifest for manifest in known.values() if manifest.stage == node.stage]
    if not rivals:
        return Why(node, False, failed.reason if failed else "")
    nearest = min(rivals, key=lambda manifest: _distance(node, manifest, known))
    return Why(
        node,
        False,
        failed.reason if failed else "",
        nearest.key,
        tuple(_fields(node, nearest)),
        tuple(_inputs(node, nearest, known)),
    )


def _fields(node: Node, manifest: Manifest) -> Iterator[tuple[str, Any, Any]]:
    if node.version != manifest.version:
        yield "version", node.version, manifest.version
    yield from changes(node.config, manifest.config)


def _distance(node: Node, manifest: Manifest | None, known: Known) -> int:
    """The fields that differ here and, where an input is another, there."""
    if manifest is None or manifest.stage != node.stage:
        return FAR
    others = [(source, manifest.inputs.get(name, "")) for name, source in node.inputs.items()]
    further = sum(1 + _distance(source, known.get(key), known) for source, key in others if source.key != key)
    return len(list(_fields(node, manifest))) + further


def _inputs(node: Node, manifest: Manifest, known: Known) -> Iterator[tuple[str, Why]]:
    """The inputs that differ from those of the nearest result, and in turn why."""
    for name, source in node.inputs.items():
        key = manifest.inputs.get(name)
        if key == source.key:
            continue
        there, hit = known.get(key or ""), source.key in known
        if there is None or there.stage != source.stage:
            yield name, Why(source, hit)
            continue
        yield name, Why(source, hit, "", there.key, tuple(_fields(source, there)), tuple(_inputs(source, there, known)))


def verify(store: Store) -> Iterator[tuple[str, str, str | None]]:
    """Hash every artifact anew: (key, stage, the first file that is wrong, or None). Nothing is moved or deleted."""
    for key in sorted(store.keys()):
        found = store.find(key)
        if found is None:
            yield key, "", "stage.json"
        else:
            yield key, found.manifest.stage, store.verify(found)
