"""Purifiers with real weights on really protected photos: ``python benchmarks/real_photos.py DATA``.

DATA holds folders with ``clean`` and ``protected`` inside, file for file (``protected`` names may begin with noisy_).
For each purifier P, the protected photo y and its clean original x: PSNR, SSIM, perceptual distance and face-identity
similarity of P(y) to x, with the number of photos in which no face is found any more; and what P leaves of the
perturbation, P(y) - P(x) against y - x: its energy, in all and in the lower and the upper half of the spectrum. Both
are purified with the same random numbers, so that noise which P only adds cancels in the difference: the energy says
nothing of what it masks. Means over photos, with 95 % intervals over people (a folder each) where there are two or
more, else over photos. Writes a table and a sheet of pictures to look at; nothing leaves the machine.
``--drawn 100 103`` takes people who never lived in place of DATA, and protects them by AdvDM at 16/255.
"""

from __future__ import annotations

import argparse
import json
import time
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from redcloak import registry
from redcloak.api import Context, Subject
from redcloak.images import load_images, to_tensor, to_uint8
from redcloak.metrics import fidelity
from redcloak.models.faces import VerifyFace
from redcloak.parsing import parse_settings
from redcloak.rng import generators
from redcloak.stats import Estimate, cluster_bootstrap
from redcloak.subjects import load_subject
from redcloak.suite import load

REAL = (
    "none", "gaussian", "gaussian_noise", "median", "bilateral", "resize", "bit_depth", "jpeg", "webp", "tvm",
    "adverse_cleaner", "waifu2x", "realesrgan", "waifu2x,realesrgan",
)  # fmt: skip
SHRUNK = ["realesrgan.shrink=4"]  # 512 -> 128 -> 512, as the paper enlarges
RANGES = {"SSIM": (-1, 1), "identity": (-1, 1)}  # of the others: from 0 up


def pairs(data: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Clean photos and protected ones in the same order, and whose each is: the folder above ``clean``."""
    clean, protected, people = [], [], []
    for folder in sorted(path.parent for path in data.rglob("clean") if path.is_dir()):
        originals, names = load_images(folder / "clean")
        others, theirs = load_images(folder / "protected")
        place = {Path(name).stem.removeprefix("noisy_"): row for row, name in enumerate(theirs)}
        clean.append(originals)
        protected.append(others[[place[Path(name).stem] for name in names]])
        people += [str(folder)] * len(names)
    return torch.cat(clean), torch.cat(protected), people


def drawn(numbers: list[int], context: Context, side: int = 256) -> tuple[Tensor, Tensor, list[str]]:
    """One photo of each drawn person, the same protected by AdvDM on the small suite, and who it is."""
    clean = to_tensor([load_subject(f"drawn:{number}", side).train[0] for number in numbers])
    entry = registry.load("protect", "advdm")
    config = entry.configure(budget=16, steps=25, step_size=2)
    return clean, entry.function(clean, config, context, generators(0, "advdm", len(clean))), list(map(str, numbers))


def purify(name: str, images: Tensor, context: Context, given: dict[str, Any]) -> Tensor:
    """A purifier, or a chain with commas, photo by photo; ``given`` holds settings by METHOD.NAME."""
    rows = []
    for row, image in enumerate(torch.split(images, 1)):
        for step in name.split(","):
            entry = registry.load("purify", step)
            own = {key.split(".")[1]: value for key, value in given.items() if key.startswith(f"{step}.")}
            with torch.no_grad():
                image = entry.function(image, entry.configure(**own), context, generators(row, step, 1))
        rows.append(image)
    return torch.cat(rows)


def upper_share(perturbation: Tensor) -> tuple[Tensor, Tensor]:
    """The energy of a perturbation below and above half the Nyquist frequency, each ``(N,)``."""
    power = torch.fft.fft2(perturbation).abs().pow(2) / perturbation[0, 0].numel()
    rows, columns = (torch.fft.fftfreq(side).abs() for side in perturbation.shape[-2:])
    high = torch.maximum(rows[:, None], columns[None, :]) > 0.25
    return (power * ~high).sum((1, 2, 3)), (power * high).sum((1, 2, 3))


def row_of(
    name: str, clean: Tensor, protected: Tensor, people: list[str], context: Context, given: dict[str, Any]
) -> tuple[dict[str, Any], Tensor]:
    """The figures of one purifier, each with its interval, and the purified photos."""
    begun = time.perf_counter()
    purified = purify(name, protected, context, given)
    spent = (time.perf_counter() - begun) / len(clean)
    near = fidelity.fidelity(purified, fidelity.Config(), Context(context.suite, reference=clean))
    left, before = upper_share(purified - purify(name, clean, context, given)), upper_share(protected - clean)
    faces = VerifyFace()
    after, originals = faces(purified), faces(clean)
    found = {
        "PSNR": near["psnr"],
        "SSIM": near["ssim"],
        "perceptual": context.suite.perceptual(purified, clean),
        "identity": (after.embeddings * originals.embeddings).sum(1),
        "energy left": sum(left) / sum(before),
        "low left": left[0] / before[0],
        "high left": left[1] / before[1],
    }
    lost = int((originals.found & ~after.found).sum())
    row = {key: interval(value, people).within(*RANGES.get(key, (0, inf))) for key, value in found.items()}
    return row | {"faces lost": f"{lost} of {int(originals.found.sum())}", "s a photo": f"{spent:.3g}"}, purified


def interval(values: Tensor, people: list[str]) -> Estimate:
    """The mean of a value per photo, with its interval over people; over the photos of a single one."""
    clusters = people if len(set(people)) > 1 else range(len(people))
    return cluster_bootstrap(values.detach().double().numpy(), np.array(list(clusters)))


def shown(value: Estimate | str) -> str:
    """A cell of the table: the mean, and the interval where there is one."""
    if isinstance(value, str):
        return value
    bounds = "" if np.isnan(value.low) else f" [{value.low:.3g}, {value.high:.3g}]"
    return f"{value.estimate:.3g}{bounds}"


def sheet(columns: dict[str, Tensor], path: Path, side: int = 192, head: int = 16) -> None:
    """One column a purifier with its name above, one row a photo."""
    width, height = side * len(columns), head + side * len(next(iter(columns.values())))
    whole = Image.new("RGB", (width, height), "white")
    write = ImageDraw.Draw(whole)
    for column, (name, images) in enumerate(columns.items()):
        write.text((column * side + 3, 2), name, fill="black")
        for row, picture in enumerate(to_uint8(images)):
            small = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
            whole.paste(small, (column * side, head + row * side))
    whole.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folders of clean and protected photos")
    parser.add_argument("--drawn", type=int, nargs="*", help="numbers of drawn people, in place of DATA")
    parser.add_argument("--with", nargs="*", dest="names", default=REAL, help="purifiers, or chains with commas")
    parser.add_argument("--set", action="append", default=SHRUNK, metavar="METHOD.NAME=VALUE", help="repeatable")
    parser.add_argument("--rows", type=int, default=4, help="photos on the sheet")
    parser.add_argument("--side", type=int, default=192, help="pixels of each on the sheet")
    parser.add_argument("--out", type=Path, default=Path("out/real_photos"))
    args = parser.parse_args()
    context = Context(load("tiny"), subject=Subject("person"))
    if (args.data is None) == (args.drawn is None):
        parser.error("give the folder DATA, or --drawn and numbers")
    clean, protected, people = pairs(args.data) if args.data else drawn(args.drawn, context)
    args.out.mkdir(parents=True, exist_ok=True)
    rows, columns = {}, {"clean": clean}
    for name in args.names:
        row, columns[name] = row_of(name, clean, protected, people, context, parse_settings(args.set))
        if not rows:
            print(f"{len(clean)} photos of {len(set(people))} people\n")
            print("| purifier | " + " | ".join(row) + " |\n|---|" + "---|" * len(row))
        rows[name] = {key: shown(value) for key, value in row.items()}
        print(f"| {name} | " + " | ".join(rows[name].values()) + " |", flush=True)
    (args.out / "real_photos.json").write_text(json.dumps(rows, indent=1) + "\n")
    step = max(1, len(clean) // args.rows)
    sheet({name: images[::step] for name, images in columns.items()}, args.out / "sheet.png", args.side)


if __name__ == "__main__":
    main()
