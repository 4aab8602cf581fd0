"""What the engine costs and how it scales. ``python benchmarks/scaling.py`` writes the table of docs/cluster.md.

``overhead``    seconds per stage beyond the stage itself, of stages that do nothing, one worker, local and Ray
``efficiency``  2 workers against 1 on 40 arms, of stages that wait (so that it is the engine's and not the cores')
``simulation``  10,000 arms on 64 GPUs through the real schedule, in virtual time: makespan against its lower bound
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redcloak.api import Needs
from redcloak.execute import run
from redcloak.matrix import Graph, Node, longest_paths
from redcloak.schedule import Schedule
from redcloak.store import Store

SECONDS = {
    "protect": 240.0,
    "purify": 20.0,
    "personalize": 480.0,
    "generate": 60.0,
    "score": 15.0,
}  # guesses for one GPU


def wait(
    stage: str, config: dict[str, Any], inputs: object, out: Path, transport: dict[str, Any], report: object
) -> dict[str, Any]:
    """A stage that takes the seconds it is told, and no core."""
    time.sleep(transport["seconds"])
    (out / "done").write_text(stage)
    return {}


def matrix(arms: int, seconds: Callable[[str], float], per_protection: int = 10) -> Graph:
    """Arms of one purifier each, ``per_protection`` of them on the same protected photos."""
    graph = Graph()

    def add(stage: str, number: int, **inputs: Node) -> Node:
        transport = {"seconds": seconds(stage)}
        return graph.add(stage, {"n": number}, inputs, transport=transport, needs=Needs(gpus=0))

    for first in range(0, arms, per_protection):
        protected = add("protect", first)
        for arm in range(first, min(first + per_protection, arms)):
            node = protected
            for stage in ("purify", "personalize", "generate", "score"):
                node = add(stage, arm, x=node)
    return graph


def timed(graph: Graph, workers: int, executor: str) -> tuple[float, float]:
    """Wall seconds of a run from its first stage on (starting workers is paid once), and those inside of stages."""
    begun: list[float] = []
    inside: list[float] = []

    def note(event: Any) -> None:
        if event.kind == "started" and not begun:
            begun.append(time.perf_counter())
        inside.append(event.seconds)

    with tempfile.TemporaryDirectory() as folder:
        run(graph, Store(Path(folder)), "scaling:wait", workers=workers, executor=executor, on_event=note, threads=1)
        return time.perf_counter() - begun[0], sum(inside)


def overhead(executor: str, arms: int = 40) -> tuple[float, float]:
    """Seconds per stage that do nothing, and how many of them the store takes, in the worker: lease, hash, flush."""
    graph = matrix(arms, lambda stage: 0.0)
    wall, inside = timed(graph, 1 if executor == "ray" else 2, executor)
    return wall / len(graph.order()), inside / len(graph.order())


def efficiency(executor: str = "local", arms: int = 40) -> float:
    """The work over what two workers had; one worker in this process would take the work and its own overhead."""
    graph = matrix(arms, lambda stage: SECONDS[stage] / 1000)
    work = sum(node.transport["seconds"] for node in graph.order())
    return work / (2 * timed(graph, 2, executor)[0])


def simulate(arms: int, gpus: int, seconds: dict[str, float]) -> tuple[float, float]:
    """The makespan of the real schedule on ``gpus`` equal ones, and the bound no schedule can beat."""
    nodes = matrix(arms, lambda stage: 0.0).order()
    schedule = Schedule(nodes, lambda node: seconds[node.stage])
    running: list[tuple[float, str]] = []
    now, by_key = 0.0, {node.key: node for node in nodes}
    while True:
        while len(running) < gpus and (node := schedule.take(lambda needs: True)):
            heapq.heappush(running, (now + seconds[node.stage], node.key))
        if not running:
            break
        now, key = heapq.heappop(running)
        schedule.done(by_key[key])
    longest = max(longest_paths(nodes, lambda node: seconds[node.stage]).values())
    return now, max(longest, sum(seconds[node.stage] for node in nodes) / gpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", type=Path, help="a store whose measured seconds replace the guesses")
    chosen = parser.parse_args()
    seconds = dict(SECONDS)
    if chosen.history:
        history = Store(chosen.history, read_only=True).history(*seconds)
        seconds |= {stage: sum(past) / len(past) for stage, past in history.items() if past}
    print("| what | figure |\n|---|---|")
    for name, executor in (("local, 2 workers", "local"), ("Ray, 1 core", "ray")):
        whole, store = (value * 1000 for value in overhead(executor))
        print(f"| per stage that does nothing, {name} | {whole:.1f} ms; in the worker, for the store: {store:.1f} ms |")
    print(f"| efficiency of 2 workers, 40 arms, stages that wait | {efficiency():.2f} |")
    start = time.process_time()
    made, bound = simulate(10_000, 64, seconds)
    spent = time.process_time() - start
    print(f"| 10,000 arms on 64 GPUs, simulated: makespan / lower bound | {made / bound:.4f} ({made / 3600:.1f} h) |")
    print(f"| ... seconds of the processor to schedule its {41_000:,} stages | {spent:.1f} s |")


if __name__ == "__main__":
    main()
