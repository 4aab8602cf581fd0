"""Stages that cost nothing, behave as their configuration says, and leave a line in a log when they start.

Run as a script, it is a driver for others to kill: ``toy_stages.py STORE LOG WORKERS SECONDS``.
"""

import errno
import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from redcloak.errors import UserError
from redcloak.runtime.execute import run
from redcloak.runtime.matrix import Graph, Node
from redcloak.runtime.store import Store

FUNCTION = f"{Path(__file__).stem}:toy"


def toy(stage, config, inputs, out, transport, report):
    with open(transport["log"], "a") as log:  # one short append: lines of several processes do not mix
        log.write(f"{stage} {config['name']} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    content = config["name"]
    for name, folder in sorted(inputs.items()):
        content += name + (folder / "value.txt").read_text()
    (out / "deep").mkdir()
    (out / "deep" / "half.txt").write_text(config["name"])
    report(1, 2, {"loss": 0.5})
    time.sleep(transport.get("seconds", 0))
    BEHAVIOURS.get(stage, lambda: None)()
    (out / "value.txt").write_text(hashlib.sha256(content.encode()).hexdigest())
    report(2, 2, {"loss": 0.25})
    return {"name": config["name"]}


def _user_error():
    raise UserError("budget = 99: too much; give at most 64.")


def _bug():
    raise KeyError("no such tensor")


def _full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


BEHAVIOURS = {"mistake": _user_error, "bug": _bug, "full": _full, "death": lambda: os.kill(os.getpid(), signal.SIGKILL)}


def lattice(log: Path, seconds: float = 0.0) -> tuple[Graph, list[Node]]:
    """Two subjects, a shared stage, and arms that meet again: 12 nodes."""
    graph, transport = Graph(), {"log": str(log), "seconds": seconds}

    def add(stage, name, **inputs):
        return graph.add(stage, {"name": name}, inputs, transport=transport)

    shared = add("classes", "shared")
    ends = []
    for subject in "ab":
        clean = add("clean", subject)
        protected = add("protect", subject, photos=clean)
        arms = [add("train", f"{subject}{i}", photos=p, classes=shared) for i, p in enumerate([clean, protected])]
        ends.append(add("score", subject, left=arms[0], right=arms[1]))
    ends.append(add("report", "all", a=ends[0], b=ends[1]))
    return graph, ends[-1:]


def lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def contents(store: Store) -> dict[str, dict[str, str]]:
    """The files of every artifact of a store, by its key."""
    return {manifest.key: manifest.files for manifest in store.manifests()}


if __name__ == "__main__":
    store, log, workers, seconds = sys.argv[1:]
    run(lattice(Path(log), float(seconds))[0], Store(Path(store)), FUNCTION, workers=int(workers))
