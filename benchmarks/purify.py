"""Seconds per photo and peak memory of every purifier: ``python benchmarks/purify.py``.

One row a purifier, one pair of columns a side; each cell is measured in a process of its own, after one photo to warm
up: the mean over ``--photos`` square photos, and the most that is resident or swapped out beyond the loaded models.
Then the two comparisons with the obvious alternative: GrIDPure against one crop at a time (``gridpure.py``) and total
variation minimisation against cvxpy (``tvm.py``), which have options of their own; ``--only`` leaves them out. Seconds
are the processor's, so that a busy machine changes little; with one thread they are those of an idle machine's clock.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from ascent import Peak
from redcloak import registry
from redcloak.api import Context, Subject
from redcloak.config import Choice
from redcloak.errors import UserError
from redcloak.purify.resize import resample
from redcloak.rng import generators
from redcloak.suite import load

SIDES = (64, 256, 512)
HERE = Path(__file__).parent


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


def child(name: str, side: int, photos: int, suite: str) -> None:
    """Purify photos one by one; print the seconds of each and the peak memory."""
    choice, context = Choice(name=name), context_of(suite)
    entry = registry.load("purify", choice.name)
    config = entry.configure(**context.suite.settings(choice.name, choice.settings))
    drawn = torch.rand((photos + 1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    images = resample(drawn, side, side, "bicubic").clamp(0, 1)
    with torch.no_grad():
        entry.function(images[:1, :, :64, :64], config, context, generators(0, name, 1))  # models load here
        memory, begun = Peak(), time.process_time()
        for image in torch.split(images[1:], 1):
            entry.function(image, config, context, generators(0, name, 1))
    print(json.dumps({"seconds": (time.process_time() - begun) / photos, "MB": memory.grown()}))


def measured(name: str, side: int, args: argparse.Namespace) -> str:
    """One cell of the table; a purifier that takes longer than ``--limit`` is stopped and says so."""
    options = ["--photos", str(args.photos), "--suite", args.suite, "--threads", str(args.threads)]
    command = [sys.executable, __file__, name, "--child", str(side), *options]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=args.limit)
    except subprocess.TimeoutExpired:
        return f"> {args.limit:g} | "
    found = json.loads(done.stdout.splitlines()[-1])
    return f"{found['seconds']:.3g} | {found['MB']:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="purifiers; by default all that run here")
    parser.add_argument("--sides", type=int, nargs="*", default=list(SIDES))
    parser.add_argument("--photos", type=int, default=1)
    parser.add_argument("--suite", default="tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=600, help="seconds that a cell may take")
    parser.add_argument("--only", action="store_true", help="without the comparisons")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        child(args.names[0], args.child, args.photos, args.suite)
        return
    names = args.names or [name for name in registry.names("purify") if name != "none" and runs_on(name, args.suite)]
    print("| purifier | " + " | ".join(f"{side}: s | MB" for side in args.sides) + " |")
    print("|---|" + "---|---|" * len(args.sides))
    for name in names:
        cells: list[str] = []
        for side in args.sides:  # where one takes too long, a larger one does
            cells.append(cells[-1] if cells and cells[-1].startswith(">") else measured(name, side, args))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    for script in () if args.only else ("gridpure.py", "tvm.py"):
        print(f"\n{script}\n", flush=True)
        subprocess.run([sys.executable, HERE / script], check=True)


if __name__ == "__main__":
    main()
