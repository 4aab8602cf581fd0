"""Seconds per photo and peak memory of every purifier: ``python benchmarks/purify.py``.

One row a purifier, one pair of columns a side; each cell is measured in a process of its own, after one photo to load
what is needed: the mean over ``--photos`` square photos, and the most that is resident beyond the loaded models and
libraries (what that first photo left free is handed back before). A loop that takes longer than ``--limit`` is run for
one turn and its seconds multiplied, which the cell says: ``310 (1 of 20 rounds)``. Then the two comparisons with the
obvious alternative: GrIDPure against one crop at a time (``gridpure.py``) and total variation minimisation against
cvxpy (``tvm.py``), which have options of their own; ``--only`` leaves them out. Seconds are the processor's, so that a
busy machine changes little; with one thread they are those of an idle machine's clock.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from redcloak import registry
from redcloak.api import Context, Subject
from redcloak.errors import UserError
from redcloak.purify.resize import resample
from redcloak.rng import generators
from redcloak.suite import load

SIDES = (64, 256, 512)
HERE = Path(__file__).parent
LOOPS = ("rounds", "steps")  # settings that seconds are proportional to; the outer loop first


def runs_on(name: str, suite: str) -> bool:
    """Whether a purifier can be set up with what this machine and suite have, without a download."""
    entry = registry.load("purify", name)
    try:
        config = entry.configure()
        config.check()
        for slot in entry.needs(config):
            load(suite).fingerprint(slot) if slot != "faces" else load(suite).faces.fingerprint()
        entry.function(torch.rand(1, 3, 64, 64), config, context_of(suite), generators(0, name, 1))
    except UserError as error:
        print(f"<!-- {name}: {error} -->", file=sys.stderr)
        return False
    return True


def context_of(suite: str) -> Context:
    return Context(load(suite), subject=Subject("person"))


def settings_of(name: str, suite: str, once: bool) -> tuple[Any, str, int]:
    """A purifier's settings, its loop cut to one turn where asked for; the loop's name, and how many turns it has."""
    entry, given = registry.load("purify", name), load(suite).settings(name, {})
    config = entry.configure(**given)
    loop = next((each for each in LOOPS if getattr(config, each, 0)), "")
    if not once or not loop:
        return config, "", 1
    return entry.configure(**given | {loop: 1}), loop, getattr(config, loop)


def child(name: str, side: int, photos: int, suite: str, once: bool) -> None:
    """Purify photos one by one; print the seconds of each and the peak memory."""
    entry, context = registry.load("purify", name), context_of(suite)
    config, loop, turns = settings_of(name, suite, once)
    drawn = torch.rand((photos + 1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    images = resample(drawn, side, side, "bicubic").clamp(0, 1)
    with torch.no_grad():
        entry.function(images[:1, :, :64, :64], config, context, generators(0, name, 1))  # models load here
        hand_back()
        first, begun = resident("VmRSS"), time.process_time()
        for image in torch.split(images[1:], 1):
            entry.function(image, config, context, generators(0, name, 1))
    spent = (time.process_time() - begun) / photos
    said = f" (1 of {turns} {loop})" if loop else ""
    print(json.dumps({"seconds": spent * turns, "said": said, "MB": resident("VmHWM") - first}))


def hand_back() -> None:
    """Return to the system what was freed, so that what is used again counts, and begin a new peak; Linux only."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # glibc would keep it
    Path("/proc/self/clear_refs").write_text("5")


def resident(name: str) -> float:
    """MiB of this process: ``VmRSS`` now, ``VmHWM`` at most. A call of some milliseconds is too short to be watched."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(fields[name].split()[0]) / 1024


def measured(name: str, side: int, args: argparse.Namespace, once: bool = False) -> str:
    """One cell of the table; a purifier that takes longer than ``--limit`` is cut to one turn, or stopped, and says so.

    Another cell of the row may have been cut already: ``once``.
    """
    options = ["--photos", str(args.photos), "--suite", args.suite, "--threads", str(args.threads)]
    command = [sys.executable, __file__, name, "--child", str(side), *options, *(["--once"] if once else [])]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=args.limit)
    except subprocess.TimeoutExpired:
        loop = settings_of(name, args.suite, True)[1]
        return measured(name, side, args, once=True) if loop and not once else f"> {args.limit:g} | "
    found = json.loads(done.stdout.splitlines()[-1])
    return f"{found['seconds']:.3g}{found['said']} | {found['MB']:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="purifiers; by default all that run here")
    parser.add_argument("--sides", type=int, nargs="*", default=list(SIDES))
    parser.add_argument("--photos", type=int, default=1)
    parser.add_argument("--suite", default="tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=600, help="seconds that a cell may take")
    parser.add_argument("--only", action="store_true", help="without the comparisons")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        child(args.names[0], args.child, args.photos, args.suite, args.once)
        return
    names = args.names or [name for name in registry.names("purify") if name != "none" and runs_on(name, args.suite)]
    print("| purifier | " + " | ".join(f"{side}: s | MB" for side in args.sides) + " |")
    print("|---|" + "---|---|" * len(args.sides))
    for name in names:
        cells: list[str] = []
        for side in args.sides:  # where one takes too long, a larger one does
            before = cells[-1] if cells else ""
            cells.append(before if before.startswith(">") else measured(name, side, args, " of " in before))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    for script in () if args.only else ("gridpure.py", "tvm.py"):
        print(f"\n{script}\n", flush=True)
        subprocess.run([sys.executable, HERE / script], check=True)


if __name__ == "__main__":
    main()
