"""Bytes that anybody may have made, decoded to upright RGB: what `redcloak.images.read_image` reads with."""

from __future__ import annotations

from contextlib import suppress
from typing import IO

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from redcloak.errors import UserError

MAX_PIXELS = 64_000_000

# A reader is chosen by the first bytes of the file and called directly: `Image.open` would warn about a large
# picture before its size can be looked at here, and would try every plugin that is installed.
_READERS: dict[bytes, type[ImageFile]] = {
    b"\x89PNG": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"RIFF": WebPImageFile,
    b"BM": BmpImageFile,
    b"II": TiffImageFile,
    b"MM": TiffImageFile,
    b"GIF8": GifImageFile,
}
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(file: IO[bytes], name: str) -> Image.Image:
    """The first picture in a file, upright, as an RGB image.

    Raises:
        UserError: it is empty, of no known kind, or larger than ``MAX_PIXELS``, which its header tells.
        Exception: of any type, from the decoder of a damaged file; ``ValueError`` for 32-bit pixels.
    """
    head = file.read(8)
    if not head:
        raise UserError(f"picture {name!r} is empty (0 bytes): export it again.")
    reader = next((reader for magic, reader in _READERS.items() if head.startswith(magic)), None)
    if reader is None:
        raise UserError(f"picture {name!r} is not PNG, JPEG, WebP, BMP, TIFF or GIF inside: convert it.")
    file.seek(0)
    image = reader(file, name)
    width, height = image.size
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 1_000_000} million pixels"
        raise UserError(f"picture {name!r} is {width}x{height}, over {limit}: scale it down.")
    image.load()
    turn = None
    with suppress(Exception):  # a broken EXIF block is no reason to refuse sound pixels
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    return _to_rgb(image if turn is None else image.transpose(turn))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no fixed range")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
