"""``kill -9`` of the driver or of a worker of a small matrix at random moments: is anything lost, or another?

``python benchmarks/kills.py`` kills twenty times, the driver or one worker; the driver is then started again, a worker
is left to its driver. Every run that gets to its end is compared with one that nobody disturbed: the files of all
artifacts, ``results.parquet``, ``board.json`` and ``leaderboard.html``, but for times.

``python benchmarks/kills.py --disk`` (as root, since it mounts them) runs the same matrix on disks that are too small,
which must be told in one line, and goes on when there is room; then it makes the disk read-only and asks every verb.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from redcloak.runtime.contents import weight
from redcloak.runtime.lease import alive
from redcloak.runtime.places import find_store

MATRIX = {
    "protocol": "kills",
    "suite": "tiny",
    "subjects": ["drawn:100", "drawn:101"],
    "protections": [{"name": "photoguard", "steps": 4}],
    "purifiers": ["none", "jpeg"],
    "trainers": [{"name": "dreambooth", "steps": 8, "batch": 1, "label": "dreambooth"}],
    "seeds": [0],
    "baselines": "plain",
    "prompts": ["a photo of {subject}"],
    "metrics": ["identity", "quality"],
    "images_per_prompt": 2,
    "sampling_steps": 4,
    "class_images": 2,
}
SIZES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.95)  # of what the matrix takes


class Ground:
    """The matrix, the folder that it runs in, and what an undisturbed run there leaves."""

    def __init__(self, root: Path) -> None:
        self.run, self.kept, self.log = root / "run", root / "undisturbed", root / "log"
        self.matrix = root / "kills.yaml"
        self.matrix.write_text(yaml.safe_dump(MATRIX), encoding="utf-8")
        begun = time.monotonic()
        assert self.start().wait() == 0, self.told()
        self.seconds = time.monotonic() - begun
        self.run.rename(self.kept)  # the others run in its place: pages name their folder
        self.files, self.says = contents(self.kept), said(self.kept)

    def start(self, verb: str = "run", *more: str) -> subprocess.Popen[bytes]:
        """A command on the folder; what it says goes to the log."""
        flags = ["--out", str(self.run), *(["--workers", "2", "--threads", "1"] if verb == "run" else [])]
        command = [sys.executable, "-m", "redcloak", "bench", verb, str(self.matrix), *more, *flags]
        with self.log.open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def told(self) -> str:
        """What the last command said."""
        return self.log.read_text(encoding="utf-8")

    def check_whole(self) -> None:
        """See that every artifact that is there is whole and as it would be undisturbed."""
        store = find_store(self.run / "store")
        found = contents(self.run)
        assert found.items() <= self.files.items(), "an artifact is another"
        assert store is None or all(store.open(key) for key in found), "an artifact is damaged"

    def check_same(self) -> None:
        """See that a run that has ended left the same as the undisturbed one, and no more."""
        assert contents(self.run) == self.files, "the artifacts are others"
        for name, here in said(self.run).items():
            assert here == self.says[name], f"{name} is another; compare {self.run} and {self.kept}"
        left = [path for name in ("tmp", "quarantine", "leases") for path in (self.run / "store" / name).iterdir()]
        assert not left, f"left behind: {left}"


def contents(run: Path) -> dict[str, dict[str, str]]:
    """The files of every artifact of a run by its key."""
    store = find_store(run / "store")
    return {manifest.key: manifest.files for manifest in store.manifests()} if store else {}


def said(run: Path) -> dict[str, Any]:
    """What the files of a run say, but for times."""
    board = json.loads((run / "board.json").read_text(encoding="utf-8"))
    page = (run / "leaderboard.html").read_text(encoding="utf-8").replace(board.pop("created"), "")
    page = re.sub(r"<time[^>]*>[^<]*", "", page)
    for stage in board.pop("wall_seconds"):
        page = re.sub(rf"(?m)^{stage}: \d+ s$", "", page)
    for row in (*board["standings"], *board["baselines"]):
        page = re.sub(rf'"{re.escape(str(row.pop("seconds")))}">[\d.]+<', "", page)
    return {"results.parquet": (run / "results.parquet").read_bytes(), "board.json": board, "leaderboard.html": page}


def workers(driver: int) -> list[int]:
    """The worker processes of a driver."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == driver and b"spawn_main" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def strike(driver: subprocess.Popen[bytes], chance: random.Random) -> str | None:
    """Kill the driver, or one of its workers where it has any; who was hit, if anybody."""
    team = workers(driver.pid)
    whom = chance.choice(["driver", "worker"] if team else ["driver"])
    victim = driver.pid if whom == "driver" else chance.choice(team)
    if not alive(victim):
        return None
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    return whom if whom == "worker" or driver.wait() == -signal.SIGKILL else None


def one_run(ground: Ground, kills: int, chance: random.Random) -> Counter[str]:
    """A run from its beginning to its end, with at most ``kills``; whom they hit."""
    hit = Counter[str]()
    while True:
        driver, before = ground.start(), hit.total()
        while driver.poll() is None:
            try:
                driver.wait(chance.uniform(0, ground.seconds) if hit.total() < kills else None)
            except subprocess.TimeoutExpired:
                if whom := strike(driver, chance):
                    hit[whom] += 1
        ground.check_whole()
        if driver.returncode == 0:
            ground.check_same()
            return hit
        # A worker that dies as it starts, or a task whose workers die three times, ends a run in one line, too.
        assert hit.total() > before, f"it broke, though nobody was killed: {ground.told()}"


def killed(ground: Ground, kills: int, chance: random.Random) -> None:
    """Run again and again until so many were killed."""
    hit, runs = Counter[str](), 0
    while hit.total() < kills:
        hit += one_run(ground, kills - hit.total(), chance)
        runs += 1
        shutil.rmtree(ground.run)
        print(f"{hit.total()} kills", file=sys.stderr)
    print(
        f"{kills} kills ({hit['driver']} of the driver, {hit['worker']} of a worker) in {runs} runs of "
        f"{len(ground.files)} stages: nothing lost, nothing half-written; the same artifacts, results, board and page"
    )


@contextmanager
def disk(folder: Path, size: int) -> Iterator[None]:
    """A disk of its own of ``size`` bytes at a folder."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "kills", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def too_small(ground: Ground, size: int, room: int) -> str:
    """A run on a disk of ``size`` bytes, and another when it has ``room``; what the first said at its end."""
    assert ground.start().wait() == 2, f"{size} bytes: {ground.told()}"
    told = one_line(ground)
    ground.check_whole()
    subprocess.run(["mount", "-o", f"remount,size={room}", str(ground.run)], check=True)
    assert ground.start().wait() == 0, ground.told()
    ground.check_same()
    return told


def read_only(ground: Ground) -> None:
    """Every verb on a finished run whose disk cannot be written: who only looks succeeds, who would write says so."""
    subprocess.run(["mount", "-o", "remount,ro", str(ground.run)], check=True)
    key = next(iter(ground.files))
    for verb, *more in (("plan",), ("why", key), ("gc",), ("run", "--overwrite", "read-only")):
        assert ground.start(verb, *more).wait() == 0, f"{verb}: {ground.told()}"
    for verb, *more in (("run",), ("run", "--overwrite", "force"), ("report",), ("gc", "--delete")):
        assert ground.start(verb, *more).wait() == 2, f"{verb}: {ground.told()}"
        print(f"{' '.join((verb, *more))}: {one_line(ground)}")
    ground.check_same()


def one_line(ground: Ground) -> str:
    """The last line of the log, which must be an error that a person can act on."""
    told = ground.told()
    assert "Traceback" not in told, told
    last = told.strip().splitlines()[-1]
    assert last.startswith("error: "), told
    return last


def disks(ground: Ground) -> None:
    """Run on every small disk, and look at the last when it is read-only."""
    takes = weight(ground.kept)
    for share in SIZES:
        size = max(4096, int(share * takes))
        with disk(ground.run, size):
            print(f"{size} bytes of {takes}: {too_small(ground, size, 4 * takes)}")
            if share == SIZES[-1]:
                read_only(ground)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disk", action="store_true", help="small and read-only disks instead of kills; as root")
    chosen = parser.parse_args()
    if chosen.disk and os.geteuid() != 0:
        parser.error("--disk mounts disks: run it as root")
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    ground = Ground(folder)
    if chosen.disk:
        disks(ground)
    else:
        killed(ground, chosen.kills, random.Random(chosen.seed))
    shutil.rmtree(folder)  # what is wrong stays to be looked at


if __name__ == "__main__":
    main()
