"""The graph of stages: every node once, whatever number of arms share it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from redcloak.api import Needs
from redcloak.runtime.manifest import Canonical, artifact_key

ONE_CORE = Needs()
Kin = tuple[str, ...]  # a stage, and the fingerprints of the models that it runs


@dataclass(frozen=True, eq=False)
class Node:
    """One run of a stage. Nodes are equal where their keys are.

    ``config`` and ``inputs`` are what can change the result and make up the key, with the stage's name and
    ``version``; ``transport`` (device, batch size) cannot change it, ``needs`` says what it takes while it runs, and
    ``label`` is for people.
    """

    stage: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Node] = field(default_factory=dict)
    transport: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    label: str = ""
    needs: Needs = ONE_CORE

    @cached_property
    def key(self) -> str:
        """Where the store keeps the result: 64 hex digits."""
        return artifact_key(self.stage, self.version, self.config, self.input_keys)

    @property
    def input_keys(self) -> dict[str, str]:
        """The keys of the inputs, by name."""
        return {name: node.key for name, node in self.inputs.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)


class Graph:
    """Nodes without duplicates, in the order they were added, which is topological: inputs come first."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def add(
        self,
        stage: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Node] | None = None,
        *,
        transport: Mapping[str, Any] | None = None,
        version: int = 1,
        label: str = "",
        needs: Needs | None = None,
    ) -> Node:
        """The node of this stage, configuration and inputs; the first to be added where it is there already.

        Raises:
            UserError: a number of the configuration is not finite.
            ValueError: an input is not of this graph.
        """
        own = config if isinstance(config, Canonical) else Canonical(config, stage)
        given = {} if transport is None else transport
        node = Node(stage, own, inputs or {}, given, version, label, needs or ONE_CORE)
        for name, source in node.inputs.items():
            if source.key not in self._nodes:
                raise ValueError(f"{stage}: the input {name!r} is not in this graph")
        return self._nodes.setdefault(node.key, node)

    def order(self) -> tuple[Node, ...]:
        """Every node, inputs before their consumers."""
        return tuple(self._nodes.values())

    def sinks(self) -> tuple[Node, ...]:
        """The nodes that no other consumes: the results, where nothing else is asked for."""
        consumed = {source.key for node in self.order() for source in node.inputs.values()}
        return tuple(node for node in self.order() if node.key not in consumed)

    def split(
        self, find: Callable[[str], object | None], targets: Iterable[Node] | None = None
    ) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
        """The nodes that must run for ``targets`` (the sinks), and the present ones that these or the caller read.

        Both in topological order. A node that is missing but consumed only by what is there need not run.

        Raises:
            ValueError: a target is not of this graph.
        """
        wanted = {node.key for node in (self.sinks() if targets is None else targets)}
        if not wanted <= self._nodes.keys():
            raise ValueError("a target is not in this graph")
        missing: list[Node] = []
        present: list[Node] = []
        for node in reversed(self.order()):
            if node.key not in wanted:
                continue
            if find(node.key) is not None:
                present.append(node)
            else:
                missing.append(node)
                wanted.update(node.input_keys.values())
        return tuple(reversed(missing)), tuple(reversed(present))


def kin_of(stage: str, config: Mapping[str, Any]) -> Kin:
    """A stage with the models that its configuration names: what it took with others tells little."""
    return stage, *_models(config)


def _models(config: Mapping[str, Any]) -> Iterator[str]:
    for name, value in config.items():
        if name == "weights":
            yield from sorted(map(str, value.values())) if isinstance(value, Mapping) else [str(value)]
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, Mapping):
                yield from _models(each)


def longest_paths(nodes: Sequence[Node], seconds: Callable[[Node], float]) -> dict[str, float]:
    """Per key, the seconds from a node's start to the end of the longest chain that waits for it.

    ``nodes`` are in topological order; what is not among them costs nothing.
    """
    paths: dict[str, float] = {}
    after: dict[str, float] = {}
    for node in reversed(nodes):
        paths[node.key] = seconds(node) + after.get(node.key, 0.0)
        for key in node.input_keys.values():
            after[key] = max(after.get(key, 0.0), paths[node.key])
    return paths
