"""Quality and identity against training steps, while a model is personalized: clean, protected, and the cures.

Cite: Liu et al., arXiv 2406.18944 (the training curves of clean, perturbed, CDL, and CodeSR with CDL).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from redcloak import registry
from redcloak.api import Context
from redcloak.config import AuditConfig
from redcloak.diagnose.groups import purified
from redcloak.diagnose.learned import estimates, scorer
from redcloak.errors import UserError
from redcloak.generate import Sampling, generate
from redcloak.prompts import NONE, Decoupling
from redcloak.rng import generator
from redcloak.stats import Estimate
from redcloak.steps import Watch

MARKS = 4  # measurements after the start
Point = tuple[str, int, dict[str, Estimate]]


@dataclass(frozen=True)
class Course:
    """One arm of the curve: the photos it trains on, and its prompts."""

    name: str
    images: Tensor
    decoupling: Decoupling = NONE


def courses(clean: Tensor, protected: Tensor, config: AuditConfig, context: Context) -> list[Course]:
    """Clean, protected, protected with CDL, and the red team's purifiers with CDL."""
    cure = "+".join(choice.name for choice in config.red_team)
    cured = purified(protected, config.red_team, context, config.seeds[0])
    return [
        Course("clean", clean),
        Course("protected", protected),
        Course("CDL", protected, config.decoupling),
        Course(f"{cure} + CDL", cured, config.decoupling),
    ]


def curve(arms: Sequence[Course], config: AuditConfig, context: Context, steps: int, watch: Watch) -> Iterator[Point]:
    """Train each arm for ``steps`` and score pictures of the subject at the start and at four steps on the way.

    ``context`` brings the suite, the subject, the class images and the reference photos. The trainer draws what it
    draws in an audit with ``common_seeds``; pictures start from the same noise at all steps and in all arms. The
    backbone is left as it was.

    Raises:
        UserError: a trainer that does not report on its way.
    """
    for arm in arms:
        found: list[Point] = []
        _train(arm, config, context, steps, watch, found)
        yield from found


def _train(arm: Course, config: AuditConfig, context: Context, steps: int, watch: Watch, found: list[Point]) -> None:
    """Train one arm; what it draws on the way is scored into ``found``."""
    suite, entry = context.suite, registry.load("personalize", config.trainer.name)
    marks = sorted({round(steps * mark / MARKS) for mark in range(1, MARKS + 1)} - {0})
    given = config.trainer.settings | {"steps": steps, "report_every": 1}
    settings = entry.configure(**suite.settings(entry.name, given))
    prompt, score, report = arm.decoupling.sampling(context.subject.instance_prompt), scorer(context), watch(arm.name)
    sampling = Sampling(config.sampling_steps, config.guidance or suite.spec.guidance, arm.decoupling.negative)

    def take(step: int) -> None:
        pictures, _ = generate(suite.backbone, [prompt], config.images_per_prompt, config.seeds[0], sampling)
        found.append((arm.name, step, estimates(score(pictures))))

    def follow(done: int, total: int, values: dict[str, float]) -> None:
        if done in marks:
            take(done)
        report(done, total, values)

    take(0)
    with suite.backbone.borrowed():
        trained = replace(context, decoupling=arm.decoupling, progress=follow)
        entry.function(arm.images, settings, trained, generator(config.seeds[0], entry.name))
    if len(found) != 1 + len(marks):
        raise UserError(f"--curve: the trainer {entry.name} does not report after each step; choose dreambooth.")
