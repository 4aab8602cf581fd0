"""``kill -9`` of the driver or of a worker at random moments: is an artifact lost, half-written, or another?

``python benchmarks/kills.py`` kills twenty runs of a small graph of toy stages, each resumed by the next: the driver,
or one worker and then the driver. At the end it compares every file with those of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))
from toy_stages import FUNCTION, contents, lattice, lines  # noqa: E402

from redcloak.execute import run  # noqa: E402
from redcloak.store import Store  # noqa: E402


def strike(store: Store, log: Path, chance: random.Random) -> str:
    """One run, and a kill at some moment after its first stage began; who was killed."""
    before = len(lines(log))
    command = [sys.executable, str(TESTS / "toy_stages.py"), str(store.root), str(log), "2", "0.1"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(lines(log)) == before and driver.poll() is None:
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.3))
    whom = chance.choice(["driver", "worker"])
    begun = lines(log)[before:]
    if whom == "worker" and begun:
        try:
            os.kill(int(begun[-1][2]), signal.SIGKILL)
        except ProcessLookupError:
            whom = "nobody: it had ended"
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    return whom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    chance, killed = random.Random(chosen.seed), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        root, fresh = Path(folder), 0
        expected = Store(root / "expected")
        run(lattice(root / "undisturbed")[0], expected, FUNCTION)
        while len(killed) < chosen.kills:
            fresh += 1
            store, log = Store(root / f"store{fresh}"), root / f"log{fresh}"
            for _ in range(4):
                killed.append(strike(store, log, chance))
                found = contents(store)
                assert found.items() <= contents(expected).items(), "an artifact is another"
                assert all(Store(store.root).open(key) for key in found), "an artifact is damaged"
            run(lattice(log)[0], Store(store.root), FUNCTION, workers=2)
            assert contents(store) == contents(expected), "the result is another"
            left = [path for name in ("tmp", "quarantine", "leases") for path in (store.root / name).iterdir()]
            assert not left, f"left behind: {left}"
    counts = {whom: killed.count(whom) for whom in sorted(set(killed))}
    print(f"{len(killed)} kills ({counts}) over {fresh} stores: nothing lost, nothing half-written, the same files")


if __name__ == "__main__":
    main()
