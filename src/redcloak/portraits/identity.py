"""What a person keeps from one photo to the next."""

from dataclasses import dataclass

import numpy as np

from redcloak.portraits.palette import HAIR, IRIS, RGB, RIMS, SKIN, jitter

# Lengths are in half head heights (crown to chin = 2), measured from the middle of the eye line, v downwards.
RANGES: dict[str, tuple[float, float]] = {
    "head_width": (0.60, 0.78),
    "cheek_width": (0.88, 1.03),  # of head_width, as are jaw and chin
    "jaw_width": (0.68, 0.98),
    "chin_width": (0.38, 0.78),
    "chin_v": (0.90, 1.10),
    "chin_square": (4.0, 10.0),
    "chin_ball": (0.0, 0.08),
    "hairline": (-0.72, -0.47),
    "hairline_square": (2.0, 4.5),
    "recede": (0.0, 0.16),
    "eye_gap": (0.235, 0.330),
    "eye_v": (-0.07, 0.06),
    "eye_width": (0.095, 0.155),
    "eye_height": (0.030, 0.070),
    "eye_tilt": (-0.22, 0.26),
    "lid": (0.0, 0.065),
    "socket": (0.02, 0.10),
    "brow_v": (0.12, 0.25),
    "brow_thick": (0.014, 0.050),
    "brow_arch": (-0.01, 0.08),
    "brow_tilt": (-0.25, 0.25),
    "brow_length": (0.13, 0.23),
    "brow_dark": (0.35, 1.0),
    "nose_v": (0.29, 0.48),
    "nose_width": (0.075, 0.170),
    "nose_height": (0.12, 0.28),
    "bridge_width": (0.04, 0.085),
    "bridge_height": (0.15, 0.75),
    "nose_tip": (0.0, 0.08),
    "mouth_v": (0.16, 0.29),  # below the nose
    "mouth_width": (0.15, 0.28),
    "lip_upper": (0.020, 0.070),
    "lip_lower": (0.030, 0.090),
    "lip_red": (0.15, 0.75),
    "cheekbone": (0.0, 0.09),
    "hollow": (0.0, 0.07),
    "fold": (0.0, 1.0),
    "age": (0.0, 1.0),
    "redness": (0.0, 1.0),
    "ear_size": (0.14, 0.22),
    "ear_out": (0.02, 0.09),
    "neck_width": (0.36, 0.50),
    "brow_skew": (-0.02, 0.02),
    "mouth_skew": (-0.018, 0.018),
    "nose_bend": (-0.03, 0.03),
    "hair_volume": (0.03, 0.12),
    "parting": (-0.6, 0.6),
    "glasses_width": (0.165, 0.215),
    "glasses_height": (0.10, 0.165),
    "glasses_square": (2.0, 5.0),
    "glasses_rim": (0.016, 0.034),
}
STYLES = ("short", "long", "curly", "bald")


@dataclass(frozen=True)
class Identity:
    """A person. `seed` draws what has no name: relief and pigment of this one face, hair strands."""

    woman: bool
    skin: str
    skin_rgb: RGB
    hair: str
    hair_rgb: RGB
    style: str
    fringe: bool
    beard: str
    glasses: bool
    rim_rgb: RGB
    iris_rgb: RGB
    freckles: int
    moles: tuple[tuple[float, float], ...]
    seed: int
    head_width: float
    cheek_width: float
    jaw_width: float
    chin_width: float
    chin_v: float
    chin_square: float
    chin_ball: float
    hairline: float
    hairline_square: float
    recede: float
    eye_gap: float
    eye_v: float
    eye_width: float
    eye_height: float
    eye_tilt: float
    lid: float
    socket: float
    brow_v: float
    brow_thick: float
    brow_arch: float
    brow_tilt: float
    brow_length: float
    brow_dark: float
    nose_v: float
    nose_width: float
    nose_height: float
    bridge_width: float
    bridge_height: float
    nose_tip: float
    mouth_v: float
    mouth_width: float
    lip_upper: float
    lip_lower: float
    lip_red: float
    cheekbone: float
    hollow: float
    fold: float
    age: float
    redness: float
    ear_size: float
    ear_out: float
    neck_width: float
    brow_skew: float
    mouth_skew: float
    nose_bend: float
    hair_volume: float
    parting: float
    glasses_width: float
    glasses_height: float
    glasses_square: float
    glasses_rim: float


def pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """One key, with probability in proportion to its weight."""
    names = list(weights)
    share = np.asarray([weights[name] for name in names])
    return names[int(rng.choice(len(names), p=share / share.sum()))]


def _traits(rng: np.random.Generator, woman: bool) -> dict[str, float]:
    # A U-shaped draw: faces in the middle of every range are the ones a recogniser takes for each other.
    drawn = {name: low + (high - low) * float(rng.beta(0.75, 0.75)) for name, (low, high) in RANGES.items()}
    if woman:
        drawn["jaw_width"] *= 0.94
        drawn["chin_width"] *= 0.9
        drawn["brow_thick"] *= 0.75
        drawn["lip_red"] = min(1.0, drawn["lip_red"] + 0.25 * float(rng.integers(0, 2)))
        drawn["recede"] = 0.0
    return drawn


def _hair(rng: np.random.Generator, skin: str, age: float) -> str:
    if age > 0.85:
        return "gray"
    dark = {"black": 6.0, "brown": 1.0, "blond": 0.4, "red": 0.4}
    tan = {"black": 4.0, "brown": 3.0, "blond": 1.2, "red": 0.8}
    light = {"black": 2.5, "brown": 2.5, "blond": 2.5, "red": 2.0}
    return pick(rng, {"dark": dark, "tan": tan, "light": light}[skin])


def _style(rng: np.random.Generator, woman: bool) -> str:
    if woman:
        return pick(rng, {"long": 6.0, "short": 2.0, "curly": 2.0})
    return pick(rng, {"short": 5.0, "bald": 2.0, "curly": 2.0, "long": 1.2})


def _beard(rng: np.random.Generator, woman: bool, skin: str, hair: str) -> str:
    if woman:
        return "no beard"
    weights = {"no beard": 4.0, "beard": 2.5, "moustache": 2.0}
    if skin != "dark" and hair in ("black", "brown"):
        weights["stubble"] = 1.5  # elsewhere it could not be seen
    return pick(rng, weights)


def draw_identity(rng: np.random.Generator) -> Identity:
    """A person at random; ranges are wide, so that a face recogniser tells two of them apart."""
    woman = bool(rng.random() < 0.5)
    traits = _traits(rng, woman)
    skin = pick(rng, {"light": 4.0, "tan": 3.0, "dark": 3.0})
    hair = _hair(rng, skin, traits["age"])
    style = _style(rng, woman)
    spots = rng.uniform((-0.45, -0.2), (0.45, 0.85), (int(rng.integers(0, 4)), 2))
    return Identity(
        woman=woman,
        skin=skin,
        skin_rgb=jitter(rng, SKIN[skin], 0.07),
        hair=hair,
        hair_rgb=jitter(rng, HAIR[hair], 0.10),
        style=style,
        fringe=style != "bald" and bool(rng.random() < (0.4 if woman else 0.15)),
        beard=_beard(rng, woman, skin, hair),
        glasses=bool(rng.random() < 0.3),
        rim_rgb=RIMS[int(rng.integers(len(RIMS)))],
        iris_rgb=IRIS[int(rng.integers(2 if skin == "dark" else len(IRIS)))],
        freckles=int(rng.integers(20, 60)) if skin == "light" and rng.random() < 0.3 else 0,
        moles=tuple((float(u), float(v)) for u, v in spots),
        seed=int(rng.integers(2**31)),
        **traits,
    )
