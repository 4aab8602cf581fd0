"""What may start next: the ready node that the longest chain waits for, of those that fit."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence

from redcloak.api import Needs
from redcloak.runtime.matrix import Node, longest_paths


class Schedule:
    """The nodes of a run by what they wait for. ``nodes`` are in topological order; other inputs are there already.

    ``seconds`` is what a node is expected to take, ``needs`` what it takes while it runs. Taking a node, or striking
    one out, costs the logarithm of their number.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        seconds: Callable[[Node], float] = lambda node: 1.0,
        needs: Callable[[Node], Needs] = lambda node: node.needs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.nodes = {node.key: node for node in nodes}
        self.needs = {node.key: needs(node) for node in nodes}
        self.paths = longest_paths(nodes, seconds)
        self.clock = clock
        self.consumers: dict[str, list[str]] = {key: [] for key in self.nodes}
        self.waiting: dict[str, int] = {}
        # One heap for each shape of needs: where a shape has no room, none of its nodes is looked at.
        self.ready: dict[Needs, list[tuple[float, str]]] = {}
        self.put_off: list[tuple[float, str]] = []
        for key, node in self.nodes.items():
            sources = set(node.input_keys.values()) & self.nodes.keys()
            self.waiting[key] = len(sources)
            for source in sources:
                self.consumers[source].append(key)
            if not sources:
                self._offer(key)

    def take(self, fits: Callable[[Needs], bool]) -> Node | None:
        """The next node to start, which leaves the schedule; None where nothing is ready that fits."""
        while self.put_off and self.put_off[0][0] <= self.clock():
            self._offer(heapq.heappop(self.put_off)[1])
        fitting = [heap for needs, heap in self.ready.items() if heap and fits(needs)]
        return self.nodes[heapq.heappop(min(fitting))[1]] if fitting else None

    def done(self, node: Node) -> None:
        """A node is there: what waited for it alone is ready."""
        for key in self.consumers[node.key]:
            if key in self.waiting:
                self.waiting[key] -= 1
                if self.waiting[key] == 0:
                    self._offer(key)

    def failed(self, node: Node) -> list[Node]:
        """A node will not be there: what needs it, directly or not, leaves the schedule and is returned."""
        gone, front = [], [node.key]
        while front:
            for key in self.consumers[front.pop()]:
                if self.waiting.pop(key, None) is not None:
                    gone.append(self.nodes[key])
                    front.append(key)
        return gone

    def again(self, node: Node, after: float = 0.0) -> None:
        """Put a node back, not to start before ``after`` seconds."""
        heapq.heappush(self.put_off, (self.clock() + after, node.key))

    def next_in(self) -> float | None:
        """Seconds until a node that was put off may start; None where there is none."""
        return max(0.0, self.put_off[0][0] - self.clock()) if self.put_off else None

    def _offer(self, key: str) -> None:
        heapq.heappush(self.ready.setdefault(self.needs[key], []), (-self.paths[key], key))
