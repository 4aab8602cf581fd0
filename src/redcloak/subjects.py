"""The photos of subjects: which are trained on and which are kept as the reference."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from redcloak.errors import UserError
from redcloak.images import Picture, digest, extent, fit, list_images, read_image

HELD_OUT_FROM = 6
DRAWN_SHOTS = 12
DRAWN_TRAIN = 6


@dataclass(frozen=True)
class Photos:
    """The photos of one subject, each ``(size, size, 3)`` uint8, with their file names.

    ``held_out`` is false where the photos were too few to split, so that ``train`` and ``reference`` are the
    same photos. ``digest`` is the SHA-256 of all pixels; two values are equal when names and digest are.
    """

    name: str
    train: tuple[Picture, ...] = field(compare=False, repr=False)
    train_names: tuple[str, ...]
    reference: tuple[Picture, ...] = field(compare=False, repr=False)
    reference_names: tuple[str, ...]
    held_out: bool
    digest: str


@dataclass(frozen=True)
class Pairs:
    """Clean photos and their protected versions, ``(size, size, 3)`` uint8, in the order of clean names."""

    names: tuple[str, ...]
    clean: tuple[Picture, ...]
    protected: tuple[Picture, ...]


def load_subject(spec: str, size: int, *, minimum: int = 2) -> Photos:
    """Load the photos of one subject, fitted to ``size`` x ``size``, and split them.

    ``spec`` is a folder, or ``drawn:N`` for the N-th subject of the portrait generator (6 shots to train on,
    6 others as reference; the same for ever). From a folder of 6 photos or more, every third one by name is
    the reference, so that both splits cover the whole range; of fewer, all photos are both.

    Raises:
        UserError: a malformed ``drawn:N``, a folder without pictures, or fewer than ``minimum`` of them.
    """
    if spec.startswith("drawn:"):
        return _drawn(spec, size)
    paths = list_images(Path(spec))
    if len(paths) < minimum:
        found = "1 photo" if len(paths) == 1 else f"{len(paths)} photos"
        raise UserError(
            f"photos = {spec!r}: {found} found, DreamBooth needs at least {minimum} of the same subject "
            f"({HELD_OUT_FROM} or more also leave some for reference): add photos."
        )
    names = [path.name for path in paths]
    pictures = [fit(read_image(path), size) for path in paths]
    kept = [len(paths) >= HELD_OUT_FROM and index % 3 == 2 for index in range(len(paths))]
    return _split(Path(spec).resolve().name, names, pictures, kept)


def load_subjects(specs: Sequence[str], size: int, field: str) -> dict[str, Photos]:
    """The photos of each subject by its ``spec``; ``field`` is what an error calls the specs.

    Raises:
        UserError: as :func:`load_subject`, or two subjects are the same photos.
    """
    found: dict[str, Photos] = {}
    for spec in specs:
        photos = load_subject(spec, size)
        twin = next((name for name, other in found.items() if other.digest == photos.digest), None)
        if twin is not None:
            raise UserError(f"{field}: {spec!r} has the same photos as {twin!r}; people count once, drop one.")
        found[spec] = photos
    return found


def pair(clean_folder: Path, protected_folder: Path, size: int) -> Pairs:
    """Match photos that another tool protected with the clean ones they were made from.

    Files match by stem, or where the protected stem has something before or after the clean one, set off by a
    character that is no letter or digit: ``50_noise_me.png`` belongs to ``me.jpg``. What most files of the
    folder have around the stem decides between several candidates.

    Raises:
        UserError: a file without partner or with several, or a pair that differs in size before fitting.
    """
    clean, protected = _by_stem(clean_folder), _by_stem(protected_folder)
    partners = _partners(list(clean), list(protected), protected_folder)
    pairs = [_same_size(clean[stem], protected[partner], size) for stem, partner in partners.items()]
    return Pairs(
        tuple(clean[stem].name for stem in partners),
        tuple(fit(first, size) for first, _ in pairs),
        tuple(fit(second, size) for _, second in pairs),
    )


def _drawn(spec: str, size: int) -> Photos:
    number = re.fullmatch(r"drawn:([0-9]{1,9})", spec)
    if number is None:
        raise UserError(f"photos = {spec!r}: write drawn:N with N from 0 to 999999999, as in drawn:3.")
    from redcloak.portraits import subject

    shots = [fit(shot, size) for shot in subject(int(number[1]), shots=DRAWN_SHOTS, size=size)]
    names = [f"shot-{index:02d}.png" for index in range(DRAWN_SHOTS)]
    return _split(spec, names, shots, [index >= DRAWN_TRAIN for index in range(DRAWN_SHOTS)])


def _split(name: str, names: Sequence[str], pictures: Sequence[Picture], kept: Sequence[bool]) -> Photos:
    """Photos whose ``kept`` is true are the reference; where none is, all serve as both."""
    held_out = any(kept)
    train = [index for index, keep in enumerate(kept) if not keep]
    reference = [index for index, keep in enumerate(kept) if keep] if held_out else train
    return Photos(
        name=name,
        train=tuple(pictures[index] for index in train),
        train_names=tuple(names[index] for index in train),
        reference=tuple(pictures[index] for index in reference),
        reference_names=tuple(names[index] for index in reference),
        held_out=held_out,
        digest=digest(pictures),
    )


def _by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in files:
            raise UserError(f"{folder}: {files[path.stem].name} and {path.name} share a stem: rename one of them.")
        files[path.stem] = path
    return files


def _partners(clean: Sequence[str], protected: Sequence[str], folder: Path) -> dict[str, str]:
    """Clean stem -> protected stem, one to one."""
    votes = Counter(around for stem in clean for other in protected for around in _around(stem, other))
    partners = {stem: _partner(stem, protected, votes, folder) for stem in clean}
    owners: dict[str, str] = {}
    for stem, other in partners.items():
        if other in owners:
            raise UserError(
                f"{folder}: {other!r} matches both clean photos {owners[other]!r} and {stem!r}: "
                "name each protected photo after its clean one."
            )
        owners[other] = stem
    spare = [other for other in protected if other not in owners]
    if spare:
        raise UserError(f"{folder}: {spare[0]!r} matches no clean photo: remove it, or add its clean photo.")
    return partners


def _partner(stem: str, protected: Sequence[str], votes: Counter[tuple[str, str]], folder: Path) -> str:
    """The protected stem that equals ``stem`` or holds it in the surroundings most common in the folder."""
    if stem in protected:
        return stem
    scores = {
        other: max(votes[around] for around in found) for other in protected if (found := [*_around(stem, other)])
    }
    best = [other for other, score in scores.items() if score == max(scores.values())]
    if not best:
        raise UserError(f"{folder}: no photo carries the name of the clean {stem!r}: protect it, or remove it.")
    if len(best) > 1:
        raise UserError(
            f"{folder}: {best[0]!r} and {best[1]!r} both match the clean photo {stem!r}: "
            "keep one, or name each protected photo after its clean one."
        )
    return best[0]


def _around(stem: str, other: str) -> Iterator[tuple[str, str]]:
    """What stands before and after each whole occurrence of ``stem`` in ``other``."""
    for match in re.finditer(rf"(?<![^\W_])(?={re.escape(stem)}(?![^\W_]))", other):
        yield other[: match.start()], other[match.start() + len(stem) :]


def _same_size(clean: Path, protected: Path, size: int) -> tuple[Picture, Picture]:
    first, second = read_image(clean), read_image(protected)
    if first.shape != second.shape and second.shape[:2] != (size, size):  # ours are protected after fitting
        raise UserError(
            f"{protected} is {extent(second)} but the clean {clean} is {extent(first)}: "
            "protect the photo at its own size, or crop the clean one as the other tool did."
        )
    return first, second
