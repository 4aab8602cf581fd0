"""What changes between two photos of one person."""

from dataclasses import dataclass

import numpy as np

from redcloak.portraits.identity import pick
from redcloak.portraits.palette import BACKGROUND, CLOTHES, RGB, jitter

QUALITIES = ("clean", "noisy pattern", "blurry", "jpeg artifacts", "pixelated")
EXPRESSIONS = ("neutral", "smiling", "open mouth")
BACKDROPS = ("gradient", "blobs", "stripes", "plain")


@dataclass(frozen=True)
class Shot:
    """One photo. Angles in degrees; positions in half pictures; `seed` draws texture and noise."""

    yaw: float
    pitch: float
    roll: float
    shift_x: float
    shift_y: float
    scale: float
    light_azimuth: float
    light_elevation: float
    light_rgb: RGB
    key: float
    ambient: float
    expression: str
    strength: float
    brow_raise: float
    look_x: float
    look_y: float
    background: str
    background_rgb: RGB
    backdrop: str
    clothes: str
    clothes_rgb: RGB
    neckline: float
    quality: str
    noise_kind: str
    severity: float
    seed: int


def _light(rng: np.random.Generator) -> RGB:
    warmth = float(rng.uniform(-1, 1))
    return (1.0 + 0.06 * warmth, 1.0, 1.0 - 0.09 * warmth)


def _quality(rng: np.random.Generator, degraded: float) -> str:
    if rng.random() >= degraded:
        return "clean"
    return pick(rng, {"noisy pattern": 4.0, "blurry": 1.5, "jpeg artifacts": 1.5, "pixelated": 1.5})


def draw_shot(rng: np.random.Generator, *, degraded: float = 0.0) -> Shot:
    """A photo at random; `degraded` is the probability that something is wrong with it."""
    background, clothes = pick(rng, dict.fromkeys(BACKGROUND, 1.0)), pick(rng, dict.fromkeys(CLOTHES, 1.0))
    looks_away = rng.random() < 0.25
    return Shot(
        yaw=float(np.clip(rng.normal(0, 10), -22, 22)),
        pitch=float(np.clip(rng.normal(0, 4.5), -10, 10)),
        roll=float(np.clip(rng.normal(0, 3.5), -9, 9)),
        shift_x=float(rng.uniform(-0.06, 0.06)),
        shift_y=float(rng.uniform(-0.04, 0.04)),
        scale=float(rng.uniform(0.75, 0.84)),
        light_azimuth=float(rng.uniform(-50, 50)),
        light_elevation=float(rng.uniform(5, 50)),
        light_rgb=_light(rng),
        key=float(rng.uniform(0.75, 0.95)),
        ambient=float(rng.uniform(0.32, 0.5)),
        expression=pick(rng, {"neutral": 4.0, "smiling": 4.0, "open mouth": 2.0}),
        strength=float(rng.uniform(0.75, 1.0)),
        brow_raise=float(rng.uniform(0.5, 1)) if rng.random() < 0.2 else 0.0,
        look_x=float(rng.uniform(-1, 1)) if looks_away else 0.0,
        look_y=float(rng.uniform(-0.5, 0.5)) if looks_away else 0.0,
        background=background,
        background_rgb=jitter(rng, BACKGROUND[background], 0.08),
        backdrop=BACKDROPS[int(rng.integers(len(BACKDROPS)))],
        clothes=clothes,
        clothes_rgb=jitter(rng, CLOTHES[clothes], 0.08),
        neckline=float(rng.uniform(0, 1)),
        quality=_quality(rng, degraded),
        noise_kind=pick(rng, {"sign": 2.0, "checker": 1.0, "wavy": 1.5, "gaussian": 1.0}),
        severity=float(rng.uniform(0.0, 1.0)),
        seed=int(rng.integers(2**31)),
    )
