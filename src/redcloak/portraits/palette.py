"""Named colours: far enough apart that a name can be told from the picture under any light drawn."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]  # float32 wherever it matters for speed; a stray double is harmless
RGB = tuple[float, float, float]

HAIR: dict[str, RGB] = {
    "black": (0.10, 0.09, 0.10),
    "brown": (0.42, 0.24, 0.12),
    "blond": (0.90, 0.74, 0.40),
    "red": (0.70, 0.27, 0.10),
    "gray": (0.68, 0.69, 0.72),
}
SKIN: dict[str, RGB] = {
    "light": (0.93, 0.77, 0.68),
    "tan": (0.78, 0.56, 0.40),
    "dark": (0.52, 0.35, 0.26),
}
CLOTHES: dict[str, RGB] = {
    "black": (0.08, 0.08, 0.09),
    "white": (0.95, 0.95, 0.95),
    "red": (0.80, 0.08, 0.10),
    "green": (0.10, 0.55, 0.18),
    "blue": (0.10, 0.22, 0.75),
    "yellow": (0.95, 0.80, 0.10),
    "purple": (0.50, 0.13, 0.62),
}
BACKGROUND: dict[str, RGB] = {
    "white": (0.96, 0.96, 0.96),
    "gray": (0.50, 0.50, 0.50),
    "blue": (0.22, 0.42, 0.85),
    "green": (0.22, 0.62, 0.28),
    "red": (0.78, 0.14, 0.14),
    "yellow": (0.95, 0.82, 0.22),
    "purple": (0.55, 0.25, 0.70),
}
IRIS: tuple[RGB, ...] = ((0.16, 0.09, 0.06), (0.34, 0.21, 0.10), (0.30, 0.47, 0.66), (0.32, 0.46, 0.28))
RIMS: tuple[RGB, ...] = ((0.05, 0.05, 0.05), (0.25, 0.12, 0.06), (0.35, 0.05, 0.08), (0.08, 0.10, 0.32))


def linear(colour: RGB) -> Array:
    """The colour as light: shading multiplies light, not display values."""
    return np.asarray(colour, dtype=np.float32) ** np.float32(2.2)


def jitter(rng: np.random.Generator, colour: RGB, spread: float) -> RGB:
    """A colour close to the named one; brightness moves more than hue, so that the name stays true."""
    gain = 1.0 + spread * rng.uniform(-1, 1)
    moved = np.clip(np.asarray(colour) * gain + 0.25 * spread * rng.uniform(-1, 1, 3) * gain, 0.02, 0.98)
    return (float(moved[0]), float(moved[1]), float(moved[2]))
