"""Seconds and peak memory of GrIDPure, against one crop at a time: ``python benchmarks/gridpure.py``.

The peers' loop takes one crop after the other through all steps of the model, in a batch of one. Both draw the same
noise, and their results are compared. Each runs in a process of its own; memory is the peak of what is resident or
swapped out, beyond what the loaded model takes. On a machine that does other things, read the seconds of the CPU. The
pixel model is that of ``--suite``, by default ``tiny``. Ours keeps its weights channels_last, torch by itself does not:
one crop at a time is measured in both layouts, so that what batches bring is told from what the layout does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor

from ascent import Peak
from redcloak.api import Context, Machine
from redcloak.memory import TYPES
from redcloak.models.pixel import PixelDiffusion
from redcloak.purify import gridpure
from redcloak.rng import generators
from redcloak.suite import load

GAMMA = 0.1
ALONE = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}  # ways of one crop at a time


def one_crop_at_a_time(
    images: Tensor,
    model: PixelDiffusion,
    side: int,
    steps: int,
    rounds: int,
    gamma: float,
    streams: Sequence[Generator],
) -> Tensor:
    """GrIDPure as its authors describe it."""
    done = []
    for image, stream in zip(images, streams, strict=True):
        for _ in range(rounds):
            crops, places = _crops(image, side)
            draws = [torch.randn((len(crops), 3, side, side), generator=stream) for _ in range(steps)]
            total, count = torch.zeros_like(image), torch.zeros_like(image)
            for index, (crop, squares) in enumerate(zip(crops, places, strict=True)):
                pure = _purified(crop, model, [draw[index] for draw in draws])
                for whole, part in squares:
                    total[whole] += pure[part]
                    count[whole] += 1
            image = (1 - gamma) * total / count + gamma * image
        done.append(image)
    return torch.stack(done)


def _purified(crop: Tensor, model: PixelDiffusion, draws: list[Tensor]) -> Tensor:
    """DDPM by its formulas, from the step of as many draws on."""
    powers = [1.0, *model.alphas_cumprod[: len(draws)].tolist()][::-1]
    state = powers[0] ** 0.5 * (crop * 2 - 1) + (1 - powers[0]) ** 0.5 * draws[0]
    for turn, (here, there) in enumerate(pairwise(powers)):
        noise = model.unet(state[None], len(draws) - 1 - turn).sample[0, :3]
        clean = ((state - (1 - here) ** 0.5 * noise) / here**0.5).clamp(-1, 1)
        beta = 1 - here / there
        state = (there**0.5 * beta * clean + (here / there) ** 0.5 * (1 - there) * state) / (1 - here)
        if turn + 1 < len(draws):
            state = state + (beta * (1 - there) / (1 - here)) ** 0.5 * draws[turn + 1]
    return (state + 1) / 2


def _crops(image: Tensor, side: int) -> tuple[list[Tensor], list[list[tuple[tuple[slice, ...], tuple[slice, ...]]]]]:
    """Every crop, and which part of the image each part of it is."""
    half, every = side // 2, slice(None)
    rows, columns = (sorted({*range(0, n - side + 1, half), n - side}) for n in image.shape[1:])
    places = [[((every, slice(y, y + side), slice(x, x + side)), (every, every, every))] for y in rows for x in columns]
    crops = [image[whole] for ((whole, _),) in places]
    ends, parts = (slice(0, half), slice(-half, None)), (slice(0, half), slice(half, None))
    corners = [((every, ends[i], ends[j]), (every, parts[i], parts[j])) for i in (0, 1) for j in (0, 1)]
    collage = torch.zeros_like(crops[0])
    for whole, part in corners:
        collage[part] = image[whole]
    return [*crops, collage], [*places, corners]


def child(args: argparse.Namespace) -> None:
    """Run one way and print its seconds and peak memory; keep its result."""
    machine = Machine(precision=args.precision if args.child == "together" else "fp32")
    context, side = Context(load(args.suite, machine)), args.sides[0]
    model = context.suite.pixel
    if args.child in ALONE:
        model.unet.to(memory_format=ALONE[args.child])
    photos = torch.rand((args.photos, 3, side, side), generator=torch.Generator().manual_seed(0))
    config = gridpure.Config(steps=args.steps, rounds=args.rounds, gamma=GAMMA, window=args.window, batch=args.batch)
    window, streams = model.window(args.window), generators(0, "gridpure", len(photos))
    with torch.no_grad():
        model.unet(torch.zeros(1, 3, window, window), 0)
        memory, begun, worked = Peak(), time.perf_counter(), time.process_time()
        if args.child in ALONE:
            result = one_crop_at_a_time(photos, model, window, args.steps, args.rounds, GAMMA, streams)
        else:
            result = gridpure.gridpure(photos, config, context, streams)
    seconds, work = time.perf_counter() - begun, time.process_time() - worked
    print(json.dumps({"seconds": seconds / len(photos), "CPU": work / len(photos), "MB": memory.grown()}))
    torch.save(result, args.result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="tiny")
    parser.add_argument("--sides", type=int, nargs="*", default=[64, 256, 512])
    parser.add_argument("--photos", type=int, default=1)
    parser.add_argument("--window", type=int, help="side of a tile; by default the model's own")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1, help="the method's default is 20; time is proportional")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=TYPES, default="fp32", help="of all tiles together alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        child(args)
        return
    print("| side | layout of one crop | its s (CPU) | together s (CPU) | faster (CPU) | its MB | MB | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for side in args.sides:
        compare(args, side)


def compare(args: argparse.Namespace, side: int) -> None:
    """Run all ways on photos of one side and print a row for each layout of one crop at a time."""
    found, results = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for way in (*ALONE, "together"):
            same = ("suite", "photos", "steps", "rounds", "batch", "threads", "precision")
            options = {name: str(getattr(args, name)) for name in same}
            options |= {"sides": str(side), "child": way, "result": f"{folder}/{way}.pt"}
            options |= {"window": str(args.window)} if args.window else {}
            command = [sys.executable, __file__, *(word for name in options for word in (f"--{name}", options[name]))]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            found[way] = json.loads(line)
            results[way] = torch.load(options["result"], weights_only=True)
    new = found["together"]
    for layout in ALONE:
        old, apart = found[layout], float((results[layout] - results["together"]).abs().max())
        print(
            f"| {side} | {layout} | {old['seconds']:.1f} ({old['CPU']:.1f}) | {new['seconds']:.1f} ({new['CPU']:.1f}) "
            f"| {old['seconds'] / new['seconds']:.2f}x ({old['CPU'] / new['CPU']:.2f}x) "
            f"| {old['MB']:.0f} | {new['MB']:.0f} | {apart:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
