"""A synthetic audit: scores drawn around chosen levels, so that the right answer is known."""

from __future__ import annotations

import numpy as np

from redcloak.api import Budget, Score
from redcloak.finished import Run
from redcloak.report.model import Arm
from redcloak.report.table import Row, Table

LEVELS = {
    "untuned": 0.05,
    "clean": 0.60,
    "random_noise": 0.56,
    "protected": 0.20,
    "protected+jpeg": 0.24,
    "protected+codesr": 0.28,
    "red_team": 0.30,
    "clean+red_team": 0.58,
}
METRICS = {
    "identity_zero": Score("Identity", True, -1, 1, "cosine", minimum_n=8),
    "identity": Score("Identity, faces only", True, -1, 1, "cosine", minimum_n=8),
    "face_found": Score("Face found", True, 0, 1),
    "quality": Score("Quality", True, 1, 5, minimum_n=8),
    "linf": Score("Largest change", False, 0, 255, "/255"),
    "psnr": Score("PSNR", True, 0, 60, "dB"),
}
PROMPTS = ("a photo of sks person", "a smiling photo of sks person")


def arm(name: str) -> Arm:
    """The metadata that an arm's name implies."""
    protection = {"random_noise": "random_noise", "red_team": "aspl"}.get(name)
    if name.startswith("protected"):
        protection = "aspl"
    purifiers = ("codesr",) if "red_team" in name else tuple(name.split("+")[1:])
    return Arm(
        name=name,
        title=name.replace("_", " "),
        words=f"What {name} shows.",
        protection=protection,
        budget=11 if protection else None,
        purifiers=purifiers,
        cdl="red_team" in name,
        purifier_steps=40 if purifiers else None,
        wall_seconds=12.5,
    )


def table(
    levels: dict[str, float] | None = None,
    *,
    subjects: int = 8,
    seeds: int = 2,
    pictures: int = 4,
    spread: float = 0.02,
    no_face: float = 0.0,
) -> Table:
    """Scores of ``pictures`` per prompt; ``spread`` is the deviation at each level."""
    rng = np.random.default_rng(0)
    levels = LEVELS if levels is None else levels
    rows = []
    for subject in (f"subject-{number}" for number in range(subjects)):
        shared = rng.normal(0, spread)
        for name, level in levels.items():
            for seed in range(seeds):
                run = shared + rng.normal(0, spread)
                for prompt in PROMPTS:
                    for picture in range(pictures):
                        value = level + run + rng.normal(0, spread)
                        found = rng.random() >= no_face
                        scores = {
                            "identity": value if found else np.nan,
                            "identity_zero": value if found else 0.0,
                            "face_found": float(found),
                            "quality": 3 + value + rng.normal(0, 0.1),
                        }
                        for metric, score in scores.items():
                            rows.append(Row(subject, name, seed, "generated", prompt, f"{picture}.png", metric, score))
            rows += _photos(subject, name)
    return Table.of(rows)


def _photos(subject: str, name: str) -> list[Row]:
    if name == "untuned":
        return []
    scores = {"linf": 0.0, "psnr": np.inf, "identity": 0.9}
    if name != "clean":
        scores = {"linf": 11.0, "psnr": 28.0, "identity": 0.88}
    if "+" in name or name == "red_team":
        scores = {"linf": 60.0, "psnr": 27.0, "identity": 0.86}
    return [
        Row(subject, name, 0, "photos", "", f"{photo}.png", metric, score)
        for photo in range(4)
        for metric, score in scores.items()
    ]


def finished(scores: Table | None = None, **changes: object) -> Run:
    """A run in which nothing is wrong, but for ``changes`` to the fields of :class:`redcloak.finished.Run`."""
    fields: dict[str, object] = {
        "scores": table() if scores is None else scores,
        "arms": tuple(map(arm, LEVELS)),
        "budget": Budget.of_255(11),
        "metrics": METRICS,
        "held_out": True,
        "surrogate": "sd21",
        "victim": "sd15",
    }
    return Run(**(fields | changes))  # type: ignore[arg-type]
