"""What the engine costs and how it scales. ``python benchmarks/scaling.py`` writes the table of docs/cluster.md.

``overhead``    seconds per stage beyond the stage itself, of stages that do nothing; two local workers, one of Ray
``efficiency``  the time of 1 worker over twice that of 2, on 40 arms of stages that wait (so that it is the engine's
                and not the cores'), local and Ray
``simulation``  10,000 arms on 64 GPUs through the real schedule, in virtual time: makespan against its lower bound;
                each stage takes a time drawn from those measured, of which the schedule knows the median alone
"""

from __future__ import annotations

import argparse
import heapq
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from redcloak.api import Needs
from redcloak.runtime.execute import run
from redcloak.runtime.matrix import Graph, Node, longest_paths
from redcloak.runtime.plan import History
from redcloak.runtime.schedule import Schedule
from redcloak.runtime.store import Store

SECONDS = {  # guesses for one GPU
    "photos": 1.0,
    "class_images": 120.0,
    "protect": 240.0,
    "purify": 20.0,
    "personalize": 480.0,
    "generate": 60.0,
    "score": 15.0,
}


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

    shared = add("class_images", 0)
    for first in range(0, arms, per_protection):
        protected = add("protect", first, photos=add("photos", first), class_images=shared)
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


def efficiency(executor: str, arms: int = 40) -> float:
    """The time of one worker over twice that of two."""
    graph = matrix(arms, lambda stage: SECONDS[stage] / 1000)
    one, two = (timed(graph, workers, executor)[0] for workers in (1, 2))
    return one / (2 * two)


def simulate(arms: int, gpus: int, past: Mapping[str, Sequence[float]], seed: int = 0) -> tuple[float, float, int]:
    """The makespan of the real schedule on ``gpus`` equal ones, the bound no schedule can beat, and the stages."""
    nodes, random = matrix(arms, lambda stage: 0.0).order(), Random(seed)
    takes = {node.key: random.choice(past[node.stage]) for node in nodes}
    medians = {stage: statistics.median(seconds) for stage, seconds in past.items()}
    schedule = Schedule(nodes, lambda node: medians[node.stage])
    running: list[tuple[float, str]] = []
    now, by_key = 0.0, {node.key: node for node in nodes}
    while True:
        while len(running) < gpus and (node := schedule.take(lambda needs: True)):
            heapq.heappush(running, (now + takes[node.key], node.key))
        if not running:
            break
        now, key = heapq.heappop(running)
        schedule.done(by_key[key])
    longest = max(longest_paths(nodes, lambda node: takes[node.key]).values())
    return now, max(longest, sum(takes.values()) / gpus), len(nodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", type=Path, help="a store whose measured seconds replace the guesses")
    chosen = parser.parse_args()
    past: dict[str, Sequence[float]] = {stage: [seconds] for stage, seconds in SECONDS.items()}
    if chosen.history:
        history = History(Store(chosen.history, read_only=True))
        past |= {stage: history.groups[stage].seconds for stage in SECONDS if stage in history.groups}
    print("| what | figure |\n|---|---|")
    for name, executor in (("local, 2 workers", "local"), ("Ray, 1 core", "ray")):
        whole, store = (value * 1000 for value in overhead(executor))
        print(f"| per stage that does nothing, {name} | {whole:.1f} ms; in the worker, for the store: {store:.1f} ms |")
    for name, executor in (("local", "local"), ("Ray", "ray")):
        print(f"| efficiency of 2 workers, 40 arms, stages that wait, {name} | {efficiency(executor):.2f} |")
    start = time.process_time()
    made, bound, stages = simulate(10_000, 64, past)
    spent = time.process_time() - start
    print(f"| 10,000 arms on 64 GPUs, simulated: makespan / lower bound | {made / bound:.4f} ({made / 3600:.1f} h) |")
    print(f"| ... seconds of the processor to schedule its {stages:,} stages | {spent:.1f} s |")


if __name__ == "__main__":
    main()
