"""Seconds a photo of total variation minimisation, and against a conic solver: ``python benchmarks/tvm.py``.

The released purifiers hand the problem to cvxpy. Here the same problem, of the same photo and mask, goes to ours and to
cvxpy with open solvers. In the first table ours is run at its default tolerance, in the second at the loosest one where
its objective is within 1e-4 of the conic solver's, or below it; cvxpy's compilation is in its time, as it is in a
user's. Seconds are of processor time on one thread, the least of ``--turns``, so that other work on the machine hardly
counts. Photos are drawn (``--photo`` takes a file).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cvxpy
import numpy as np
import torch
from torch import Tensor

from redcloak.images import fit, read_image, to_tensor
from redcloak.portraits import subject
from redcloak.purify.resize import resample
from redcloak.rng import generators, rand
from redcloak.variation import minimise, objective

Result = TypeVar("Result")


def conic(image: Tensor, kept: Tensor, weight: float, solver: str) -> Tensor:
    """One ``(1, C, H, W)`` picture by cvxpy; the objective is that of the papers, channel by channel."""
    x, mask = image[0].double().numpy(), kept[0].double().numpy()
    planes = [cvxpy.Variable(plane.shape) for plane in x]
    misfits = [cvxpy.vec(cvxpy.multiply(k, z - t), order="C") for k, z, t in zip(mask, planes, x, strict=True)]
    terms = [cvxpy.sum(cvxpy.norm(z[1:, :] - z[:-1, :], 2, axis=1)) for z in planes]
    terms += [cvxpy.sum(cvxpy.norm(z[:, 1:] - z[:, :-1], 2, axis=0)) for z in planes]
    cost = cvxpy.norm(cvxpy.hstack(misfits), 2) + weight * cvxpy.sum(cvxpy.hstack(terms))
    cvxpy.Problem(cvxpy.Minimize(cost)).solve(solver=solver)
    return torch.from_numpy(np.stack([plane.value for plane in planes]))[None]


def timed(work: Callable[[], Result], turns: int) -> tuple[float, Result]:
    """The shortest of some turns in seconds, and the result."""
    seconds, result = [], None
    for _ in range(turns):
        begun = time.process_time()
        result = work()
        seconds.append(time.process_time() - begun)
    assert result is not None
    return min(seconds), result


def photo(path: Path | None, size: int) -> Tensor:
    image = to_tensor([fit(read_image(path), size)]) if path else to_tensor([subject(0, shots=1)[0]])
    return resample(image, size, size, "bicubic")


def value(picture: Tensor, image: Tensor, kept: Tensor, weight: float) -> float:
    return float(objective(picture.double(), image.double(), kept.double(), weight))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 256, 512])
    parser.add_argument("--solvers", nargs="*", default=["CLARABEL", "SCS"])
    parser.add_argument("--conic-size", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| pixels | drop | weight | ours s | objective |\n|---|---|---|---|---|")
    for size in args.sizes:
        image = photo(args.photo, size)
        for drop, weight in ((0.5, 0.03), (0.02, 0.01)):
            kept = rand(image, generators(0, "mask", 1)) >= drop
            seconds, picture = timed(lambda i=image, k=kept, w=weight: minimise(i, k, w), args.turns)
            print(
                f"| {size} | {drop} | {weight} | {seconds:.3f} | {value(picture, image, kept, weight):.5f} |",
                flush=True,
            )
    print("\n| pixels | drop | weight | solver | its s | its objective | tolerance | ours s | objective | faster |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    image = photo(args.photo, args.conic_size)
    for drop, weight in ((0.02, 0.01), (0.5, 0.03), (0.5, 0.1)):
        kept = rand(image, generators(0, "mask", 1)) >= drop
        for solver in args.solvers:
            slow, theirs = timed(lambda k=kept, w=weight, s=solver: conic(image, k, w, s), args.turns)
            best = value(theirs, image, kept, weight)
            for tolerance in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
                quick, ours = timed(lambda k=kept, w=weight, t=tolerance: minimise(image, k, w, t), args.turns)
                reached = value(ours, image, kept, weight)
                if reached <= best * (1 + 1e-4):
                    break
            print(
                f"| {args.conic_size} | {drop} | {weight} | {solver} | {slow:.1f} | {best:.5f} | {tolerance:g} "
                f"| {quick:.3f} | {reached:.5f} | {slow / quick:.0f}x |",
                flush=True,
            )


if __name__ == "__main__":
    main()
