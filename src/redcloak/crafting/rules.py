"""How an ascent moves: the plan of it, the direction of a step, and what a rule remembers from step to step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from redcloak.api import Budget
from redcloak.crafting.balls import project

Rule = Literal["sign", "normalised", "l2", "apgd"]
Schedule = Callable[[int, int], float]


def constant(step: int, steps: int) -> float:
    """The full step size throughout."""
    return 1.0


def decaying(step: int, steps: int) -> float:
    """From the full step size down to a hundredth, linearly (PhotoGuard)."""
    return 1.0 - 0.99 * step / steps


@dataclass(frozen=True)
class Plan:
    """How to ascend: the ball, the steps and their size in [0, 1] pixel units, the rule, and how the size shrinks.

    Rules: ``sign`` of the gradient; ``normalised`` to a largest entry of 1; ``l2``, to a root mean square of 1;
    ``apgd``, the sign with momentum and steps that are halved where they no longer gain (:class:`Apgd`).
    """

    budget: Budget
    step_size: float
    steps: int
    rule: Rule = "sign"
    schedule: Schedule = constant


def direction(gradient: Tensor, rule: Rule) -> Tensor:
    """The direction of a step, for each image on its own."""
    if rule in ("sign", "apgd"):
        return gradient.sign()
    flat = gradient.flatten(1)
    size = flat.abs().amax(1) if rule == "normalised" else flat.pow(2).mean(1).sqrt()
    return gradient / size.clamp_min(1e-12).view(-1, 1, 1, 1)


class Mover:
    """The step rule of one climb, with whatever it remembers."""

    def __init__(self, origin: Tensor, plan: Plan) -> None:
        self.origin, self.plan = origin, plan

    def move(self, images: Tensor, losses: Tensor, gradient: Tensor, step: int) -> Tensor:
        """The images after a step; ``losses`` and ``gradient`` are those of ``images``."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """What it remembers, for a checkpoint."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up what :meth:`state` gave."""

    def result(self, images: Tensor) -> Tensor:
        """What the climb ends with, where ``images`` are where it stands."""
        return images.detach()


class Plain(Mover):
    """One step of the scheduled size along the direction, then back into the ball."""

    def move(self, images: Tensor, losses: Tensor, gradient: Tensor, step: int) -> Tensor:
        size = self.plan.step_size * self.plan.schedule(step, self.plan.steps)
        return project(images + size * direction(gradient, self.plan.rule), self.origin, self.plan.budget)


class Apgd(Mover):
    """Auto-PGD: momentum 0.75; the step is halved, and the best point taken up again, where it no longer gains.

    The best point is that of the highest loss seen. A loss that is one random draw is a noisy judge of it: average
    several draws (``draws``), or keep to ``sign``.

    Cite: Croce & Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
    Attacks", ICML 2020, algorithm 1.
    """

    def __init__(self, origin: Tensor, plan: Plan) -> None:
        super().__init__(origin, plan)
        count = len(origin)
        self.size = torch.full((count,), plan.step_size)
        self.best, self.best_loss = origin.clone(), torch.full((count,), -torch.inf)
        self.best_gradient = torch.zeros_like(origin)
        self.before, self.last_loss = origin.clone(), torch.full((count,), -torch.inf)
        self.gains, self.since = torch.zeros(count), torch.zeros(1)
        self.checked_loss, self.checked_size = self.best_loss.clone(), self.size.clone()
        self.period = torch.tensor([max(0.22 * plan.steps, 1.0)])

    def state(self) -> dict[str, Tensor]:
        return {f"apgd.{name}": value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            if name.startswith("apgd."):
                setattr(self, name[5:], value)

    def move(self, images: Tensor, losses: Tensor, gradient: Tensor, step: int) -> Tensor:
        self.gains += losses > self.last_loss
        better = losses > self.best_loss
        self.best = torch.where(_wide(better), images, self.best)
        self.best_gradient = torch.where(_wide(better), gradient, self.best_gradient)
        self.best_loss = torch.where(better, losses, self.best_loss)
        self.last_loss, self.since = losses, self.since + 1
        if self.since >= self.period:
            images, gradient = self._check(images, gradient)
        ahead = project(images + _wide(self.size) * gradient.sign(), self.origin, self.plan.budget)
        share = 0.75 if step else 1.0
        moved = images + share * (ahead - images) + (1 - share) * (images - self.before)
        self.before = images
        return project(moved, self.origin, self.plan.budget)

    def _check(self, images: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Condition 1: too few gains since the last check. Condition 2: neither the size nor the best loss changed."""
        few = self.gains < 0.75 * self.since
        stuck = (self.checked_size == self.size) & (self.checked_loss == self.best_loss)
        halve = few | stuck
        self.checked_size, self.checked_loss = self.size.clone(), self.best_loss.clone()
        self.size = torch.where(halve, self.size / 2, self.size)
        self.gains, self.since = torch.zeros_like(self.gains), torch.zeros_like(self.since)
        least, shrink = 0.06 * self.plan.steps, 0.03 * self.plan.steps
        self.period = (self.period - shrink).clamp_min(max(least, 1.0))
        back = _wide(halve)
        return torch.where(back, self.best, images), torch.where(back, self.best_gradient, gradient)

    def result(self, images: Tensor) -> Tensor:
        return self.best.detach()


def mover_of(origin: Tensor, plan: Plan) -> Mover:
    """The step rule that a plan names, at the photos that the ball is around."""
    return (Apgd if plan.rule == "apgd" else Plain)(origin, plan)


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
