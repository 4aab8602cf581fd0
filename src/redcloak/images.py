"""The only door to disk for pictures: list, read, fit, save, compare, digest.

A picture is an 8-bit RGB PNG on disk and a ``(H, W, 3)`` uint8 array in memory or, where models work on it, a
``(N, 3, H, W)`` float32 tensor in [0, 1]. Nothing here is random or changes Pillow's global state: every
function may be called from several threads. Torch is imported only where a tensor is made.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from redcloak.decoding import decode
from redcloak.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Picture = NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def list_images(folder: Path) -> list[Path]:
    """The pictures of a folder by name, numbers in their natural order (``2.png`` before ``10.png``).

    Hidden files, sub-folders and files without one of ``SUFFIXES`` are passed over.

    Raises:
        UserError: the folder is missing, is a file, cannot be read or holds no picture.
    """
    try:
        files = [path for path in folder.iterdir() if _counts(path)]
    except OSError as error:
        raise UserError(f"photo folder {str(folder)!r}: {error.strerror}: give a folder of pictures.") from None
    if not files:
        raise UserError(f"photo folder {str(folder)!r} holds no picture ({', '.join(SUFFIXES)}): add some.")
    return sorted(files, key=lambda path: _natural(path.name))


def read_image(path: Path) -> Picture:
    """Read one picture as a ``(H, W, 3)`` uint8 RGB array, upright.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled (16-bit colour keeps its
    high byte), and an animation gives its first frame. Colour profiles are not applied.

    Raises:
        UserError: the file is missing, empty, damaged, no picture, has 32-bit pixels (they have no fixed
            range), or is larger than ``decoding.MAX_PIXELS`` (refused from its header, before it is decoded).
    """
    try:
        if not path.is_file():  # also keeps a pipe or a device from blocking for ever
            raise UserError(f"picture {str(path)!r} is not a file: check the path.")
        with path.open("rb") as file:
            return np.array(decode(file, str(path)))
    except UserError:
        raise
    except Exception as error:  # decoders raise anything on a damaged file, from SyntaxError to struct.error
        system = error.strerror if isinstance(error, OSError) else None
        cause = system or f"{error or type(error).__name__}; damaged or of a rare kind, export it as PNG"
        raise UserError(f"picture {str(path)!r} cannot be read: {cause}.") from None


def fit(image: Picture, size: int) -> Picture:
    """Crop the centre square of a ``(H, W, 3)`` picture and resize it to ``(size, size, 3)`` with Lanczos.

    The one definition of preprocessing. A picture of that size already comes back unchanged.
    """
    if size < 1:
        raise UserError(f"size = {size}: give the side of the fitted pictures, at least 1 pixel.")
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(image[top : top + side, left : left + side])
    return np.array(square.resize((size, size), Image.Resampling.LANCZOS))


def to_tensor(images: Sequence[Picture]) -> Tensor:
    """Stack ``(H, W, 3)`` uint8 pictures of one size into ``(N, 3, H, W)`` float32 in [0, 1]."""
    import torch

    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float() / 255


def to_uint8(images: Tensor) -> Picture:
    """Turn ``(N, 3, H, W)`` floats in [0, 1] into ``(N, H, W, 3)`` uint8: half to even, clamped.

    Raises:
        ValueError: another shape, an integer tensor, or a NaN, which no 8-bit value can stand for.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"images are (N, 3, H, W) floats, not {tuple(images.shape)} {images.dtype}")
    if images.isnan().any():
        raise ValueError("images hold NaN")
    steps = images.detach().float().mul(255).round().clamp(0, 255).byte()
    return steps.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def on_lattice(images: Tensor) -> Tensor:
    """The nearest images that an 8-bit file can hold: every value ``k/255``, same shape, type and device."""
    return (images * 255).round().clamp(0, 255) / 255


def to_png_bytes(image: Picture) -> bytes:
    """Encode a ``(H, W, 3)`` picture as PNG without metadata; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def save_images(folder: Path, images: Tensor, names: Sequence[str] | None = None) -> list[Path]:
    """Save ``(N, 3, H, W)`` images in [0, 1] as PNG files, each written beside and renamed into place.

    ``names`` keep their stem (``a.jpg`` is saved as ``a.png``); where two stems collide, the later becomes
    ``a-2.png``. Without names the files are ``000.png``, ``001.png``. Files of the same name are replaced.

    Raises:
        UserError: the folder cannot be written or the disk is full; what was saved before stays whole.
        ValueError: not one name per image, or images that ``to_uint8`` refuses.
    """
    return save_pictures(folder, to_uint8(images), names)


def save_pictures(
    folder: Path, pictures: Sequence[Picture] | Picture, names: Sequence[str] | None = None
) -> list[Path]:
    """The same for ``(H, W, 3)`` uint8 pictures, which may differ in size."""
    names = [f"{index:03d}" for index in range(len(pictures))] if names is None else names
    if len(names) != len(pictures):
        raise ValueError(f"{len(names)} names for {len(pictures)} images")
    check_writable(folder)
    paths = [folder / f"{stem}.png" for stem in _distinct(names)]
    for path, picture in zip(paths, pictures, strict=True):
        _write(path, to_png_bytes(picture))
    return paths


def load_images(folder: Path, size: int | None = None) -> tuple[Tensor, list[str]]:
    """Read a folder: ``(N, 3, H, W)`` float32 in [0, 1], fitted to ``size`` where given, and the file names.

    Raises:
        UserError: as `list_images` and `read_image`, or pictures of different sizes without ``size``.
    """
    paths = list_images(folder)
    pictures = [read_image(path) if size is None else fit(read_image(path), size) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise UserError(
                f"photo folder {str(folder)!r}: {paths[0].name} is {extent(pictures[0])} and {path.name} is "
                f"{extent(picture)}: give a size to fit them to, or pictures of one size."
            )
    return to_tensor(pictures), [path.name for path in paths]


def by_size(pictures: Sequence[Picture]) -> list[list[int]]:
    """The rows of pictures of one size, for each size that there is."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, picture in enumerate(pictures):
        rows.setdefault(picture.shape, []).append(row)
    return list(rows.values())


def linf_on_disk(a: Path, b: Path) -> int:
    """The largest difference of two saved pictures in 8-bit steps, both read back from disk.

    Raises:
        UserError: as `read_image`, or pictures of different sizes.
    """
    return int(np.abs(_difference(a, b)).max())


def rms_on_disk(a: Path, b: Path) -> float:
    """The root mean square difference of two saved pictures in 8-bit steps, both read back from disk.

    Raises:
        UserError: as `read_image`, or pictures of different sizes.
    """
    return float(np.sqrt(np.square(_difference(a, b).astype(np.float64)).mean()))


def _difference(a: Path, b: Path) -> NDArray[np.int16]:
    first, second = read_image(a), read_image(b)
    if first.shape != second.shape:
        raise UserError(f"{a} is {extent(first)} and {b} is {extent(second)}: compare pictures of one size.")
    return first.astype(np.int16) - second


def digest(images: Sequence[Picture] | Picture | Tensor) -> str:
    """SHA-256 over shape and pixels, in order; a float tensor counts as the 8-bit pictures it is saved as."""
    pictures = images if isinstance(images, Sequence | np.ndarray) else to_uint8(images)
    total = hashlib.sha256()
    for picture in pictures:
        total.update(repr(picture.shape).encode() + picture.tobytes())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, or of a folder's files and their names, in short: it enters cache keys.

    Raises:
        UserError: the file cannot be read.
    """
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        names = [f"{file.relative_to(path).as_posix()} {file_digest(file)}" for file in files]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}.") from None


def folder_digest(folder: Path) -> str:
    """SHA-256 over the stems and pixels of a folder: a lossless re-encode or a move changes nothing."""
    entries = sorted((path.stem, digest([read_image(path)])) for path in list_images(folder))
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def check_writable(folder: Path) -> None:
    """Create an output folder and try to write in it, before any work is spent.

    Raises:
        UserError: a file is in the way, or the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        blocked = isinstance(error, FileExistsError | NotADirectoryError)
        cause = "a file is in the way" if blocked else error.strerror
        raise UserError(f"output folder {str(folder)!r} cannot be written: {cause}; change it.") from None


def extent(image: Picture) -> str:
    """The size of a picture for people: ``640x480``, width first."""
    return f"{image.shape[1]}x{image.shape[0]}"


def _counts(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Digits compare as numbers and before letters; the name itself tells ``1.png`` from ``01.png``."""
    runs = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return [(not digits, int(digits or 0), text.casefold()) for digits, text in runs], name


def _distinct(names: Sequence[str]) -> Iterator[str]:
    """The stems of names, told apart without regard to case, as some file systems do."""
    taken: set[str] = set()
    for name in names:
        path = Path(name)
        stem = path.stem if path.suffix.lower() in SUFFIXES else path.name
        choice, count = stem, 1
        while choice.casefold() in taken:
            count += 1
            choice = f"{stem}-{count}"
        taken.add(choice.casefold())
        yield choice


def _write(path: Path, data: bytes) -> None:
    beside = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        cause = f"{error.strerror}; make room or change the folder"
        raise UserError(f"picture {str(path)!r} cannot be saved: {cause}.") from None
    finally:
        with suppress(OSError):  # on success it is gone already, and a read-only disk refuses even to look
            beside.unlink()
