"""Why a picture has no identity score: no face in it, or no picture in the file. And whose faces a folder holds.

Evaluation code that counts every exception as "no face" turns a broken file or missing weights into a protection that
works. Here each file has one outcome; a back end that fails is an error, and never an outcome.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from torch import Tensor

from redcloak.errors import UserError
from redcloak.images import read_image, to_tensor
from redcloak.models.faces import FaceBackend, Faces
from redcloak.subjects import Photos


class Outcome(StrEnum):
    """What became of one file."""

    FACE = "face"
    NO_FACE = "no face"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Detection:
    """The outcome of every file, and why it could not be read, by file name."""

    outcomes: Mapping[str, Outcome]
    reasons: Mapping[str, str]

    def count(self, outcome: Outcome) -> int:
        """How many files had that outcome."""
        return sum(each is outcome for each in self.outcomes.values())

    @property
    def fdfr(self) -> float:
        """Face detection failure rate: the share without a face among the pictures that could be read; nan of none.

        Cite: Van Le et al., Anti-DreamBooth, ICCV 2023, section 5.1.
        """
        readable = len(self.outcomes) - self.count(Outcome.UNREADABLE)
        return self.count(Outcome.NO_FACE) / readable if readable else float("nan")


def detect(paths: Sequence[Path], backend: FaceBackend) -> Detection:
    """Look for a face in every file, at its own size. Nothing is random.

    Only a file that is no picture is ``UNREADABLE``: whatever else goes wrong is raised.
    """
    outcomes: dict[str, Outcome] = {}
    reasons: dict[str, str] = {}
    for path in paths:
        try:
            picture = read_image(path)
        except UserError as error:
            outcomes[path.name], reasons[path.name] = Outcome.UNREADABLE, str(error)
            continue
        found = bool(backend(to_tensor([picture])).found[0])
        outcomes[path.name] = Outcome.FACE if found else Outcome.NO_FACE
    return Detection(outcomes, reasons)


def people(faces: Faces, same: float) -> list[list[int]]:
    """The pictures of each person, largest group first; pictures without a face are in none.

    Two pictures belong together where their cosine is at least ``same``, and so do all that are linked by others.
    """
    alike = faces.embeddings @ faces.embeddings.T >= same
    left, groups = [index for index, found in enumerate(faces.found.tolist()) if found], []
    while left:
        group = [left.pop(0)]
        for member in group:  # grows while it is walked
            group += [other for other in left if alike[member, other]]
            left = [other for other in left if other not in group]
        groups.append(sorted(group))
    return sorted(groups, key=len, reverse=True)


def strangers(photos: Photos, backend: FaceBackend) -> str | None:
    """What is wrong with the faces of a subject's photos, reference photos among them: as :func:`one_person`."""
    pictures = photos.train + (photos.reference if photos.held_out else ())
    names = photos.train_names + (photos.reference_names if photos.held_out else ())
    return one_person(to_tensor(pictures), names, backend, photos.name)


def one_person(images: Tensor, names: Sequence[str], backend: FaceBackend, of: str = "") -> str | None:
    """What is wrong with the photos of one person, in a sentence; None where nothing is. ``of``: whose photos.

    Raises:
        UserError: no face was found in any of them.
    """
    faces = backend(images)
    if not bool(faces.found.any()):
        whose = f"photos of {of!r}" if of else "photos"
        raise UserError(
            f"{whose}: {backend.name} finds no face in any of the {len(names)} photos, so identity cannot be scored; "
            "choose photos with a face, or other metrics in the configuration (metrics: [clip_i, quality])."
        )
    groups = people(faces, backend.same) if backend.same is not None else []
    if len(groups) < 2:
        return None
    others = [names[index] for group in groups[1:] for index in group]
    listed = ", ".join(others[:3]) + (" and more" if len(others) > 3 else "")
    return f"{listed} {'seems' if len(others) == 1 else 'seem'} to show someone else than the rest."
