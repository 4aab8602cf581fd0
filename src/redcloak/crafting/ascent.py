"""Projected gradient ascent inside a budget, ending on the 8-bit lattice of the PNG that will be saved.

    x_{k+1} = P( x_k + a_k * rule(grad L(x_k)) ),    P: the ball around x_0, cut with [0, 1]

Photos that do not depend on each other go through the model in passes of one fixed size, the last one filled up: the
same kernels whatever their companions, so that the same seed gives the same bytes for any batch. Small photos go four
at a time (on the small suite 1.7 times faster than one by one), large ones singly, in the least memory.

Cite: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from redcloak.api import Budget, Context
from redcloak.crafting.balls import project
from redcloak.crafting.objectives import EVERY, Objective, Rows, through, value_and_gradient
from redcloak.errors import UserError

GROUP = 4
SMALL = 128 * 128  # pixels of a photo that is grouped
Rule = Literal["sign", "normalised", "l2", "apgd"]
Schedule = Callable[[int, int], float]


class Diverged(UserError):
    """A loss or a gradient is no number; ``images`` is the last good result, not on the lattice."""

    def __init__(self, photo: int, step: int, images: Tensor) -> None:
        super().__init__(
            f"photo {photo + 1}: the loss or its gradient is not a number at step {step + 1}; "
            "try a smaller lr or step_size, or full precision."
        )
        self.photo, self.step, self.images = photo, step, images


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
    ``apgd``, the sign with momentum and steps that are halved where they no longer gain (:class:`_Apgd`).
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


def ascend(
    start: Tensor,
    clean: Tensor,
    objective: Objective,
    generators: Sequence[Generator],
    plan: Plan,
    context: Context | None = None,
    *,
    together: bool = False,
) -> Tensor:
    """Follow ``plan`` from ``start``, image by image; the result is *not* yet on the lattice.

    ``context`` gives the lens to look through, the progress callback and the checkpoint. ``together`` moves all images
    at each step, small ones in one batch: faster where they depend on each other anyway.
    Random: only what the objective and the lens draw, from each image's own generator.

    Raises:
        Diverged: a loss or a gradient is not a number.
    """
    if context and context.lens:
        objective = through(objective, context.lens, context.lens_draws)
    size = len(start) if together else group_size(start)
    asked = objective if together else _filled(objective, size)
    groups = [slice(row, min(row + size, len(start))) for row in range(0, len(start), size)]
    done = start.detach().clone()
    kept = context.checkpoint.load() if context and not together else {}
    for number, rows in enumerate(groups):
        if kept and number < int(kept["group"]):
            done[rows] = kept["images"][rows]
            continue
        follow = _Follow(context, number, len(groups), plan.steps, keeps=not together)
        resumed = kept if kept and number == int(kept["group"]) else {}
        try:
            done[rows] = _climb(done, rows, clean, asked, list(generators)[rows], plan, follow, resumed)
        except Diverged as error:
            done[rows] = error.images
            raise Diverged(rows.start + error.photo, error.step, done) from None
    return done


def group_size(images: Tensor) -> int:
    """How many photos of this size go through the model at once: it must not depend on how many there are."""
    return GROUP if images.shape[-1] * images.shape[-2] <= SMALL else 1


def _filled(objective: Objective, size: int) -> Objective:
    """An objective that is always asked of ``size`` images: the first is repeated, with streams of no other use."""

    def loss(images: Tensor, generators: Sequence[Generator], rows: Rows = EVERY) -> Tensor:
        count, more = len(images), size - len(images)
        assert isinstance(rows, slice)
        if not more:
            return objective(images, generators, rows)
        filled = torch.cat([images, images[:1].detach().expand(more, -1, -1, -1)])
        streams = [*generators, *(torch.Generator().manual_seed(0) for _ in range(more))]
        return objective(filled, streams, [*range(rows.start, rows.stop), *([rows.start] * more)])[:count]

    return loss


def _climb(
    everything: Tensor,
    rows: slice,
    clean: Tensor,
    objective: Objective,
    generators: Sequence[Generator],
    plan: Plan,
    follow: _Follow,
    resumed: dict[str, Tensor],
) -> Tensor:
    images, origin = everything[rows], clean[rows]
    mover: _Mover = (_Apgd if plan.rule == "apgd" else _Plain)(origin, plan)
    first = 0
    if resumed:
        images, first = resumed["images"][rows], int(resumed["step"])
        mover.load(resumed)
        for index, stream in enumerate(generators):
            stream.set_state(resumed[f"generator.{index}"])
    for step in range(first, plan.steps):
        losses, gradient = _gradient(objective, images, generators, rows)
        good = losses.isfinite() & gradient.flatten(1).isfinite().all(1)
        if not good.all():
            raise Diverged(int((~good).nonzero()[0, 0]), step, images)
        images = mover.move(images, losses, gradient, step)
        follow.tell(step, losses)
        follow.keep(everything, rows, images, step, mover, generators)
    return mover.result(images)


def _gradient(
    objective: Objective, images: Tensor, generators: Sequence[Generator], rows: slice
) -> tuple[Tensor, Tensor]:
    """Loss and gradient of each image; of large ones singly, in the memory of one."""
    if len(images) == 1 or group_size(images) > 1:
        return value_and_gradient(objective, images, generators, rows)
    found = [
        value_and_gradient(objective, images[row, None], [stream], slice(rows.start + row, rows.start + row + 1))
        for row, stream in enumerate(generators)
    ]
    losses, gradients = zip(*found, strict=True)
    return torch.cat(losses), torch.cat(gradients)


class _Follow:
    """Progress over all groups of photos, and what a checkpoint of the one at hand holds."""

    def __init__(self, context: Context | None, group: int, groups: int, steps: int, *, keeps: bool) -> None:
        self.context, self.group, self.groups, self.steps, self.keeps = context, group, groups, steps, keeps

    def tell(self, step: int, losses: Tensor) -> None:
        if self.context:
            done = self.group * self.steps + step + 1
            self.context.progress(done, self.groups * self.steps, {"loss": float(losses.mean())})

    def keep(
        self,
        everything: Tensor,
        rows: slice,
        images: Tensor,
        step: int,
        mover: _Mover,
        generators: Sequence[Generator],
    ) -> None:
        if self.context is None or not self.keeps:
            return  # the loop around it keeps a state of its own

        def state() -> dict[str, Tensor]:
            now = everything.clone()
            now[rows] = images
            streams = {f"generator.{index}": stream.get_state() for index, stream in enumerate(generators)}
            place = {"group": torch.tensor(self.group), "step": torch.tensor(step + 1)}
            return {"images": now, **place, **streams, **mover.state()}

        self.context.checkpoint.save(state)


class _Mover:
    """The step rule of one climb, with whatever it remembers."""

    def __init__(self, origin: Tensor, plan: Plan) -> None:
        self.origin, self.plan = origin, plan

    def move(self, images: Tensor, losses: Tensor, gradient: Tensor, step: int) -> Tensor:
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up what :meth:`state` gave."""

    def result(self, images: Tensor) -> Tensor:
        return images.detach()


class _Plain(_Mover):
    def move(self, images: Tensor, losses: Tensor, gradient: Tensor, step: int) -> Tensor:
        size = self.plan.step_size * self.plan.schedule(step, self.plan.steps)
        return project(images + size * direction(gradient, self.plan.rule), self.origin, self.plan.budget)


class _Apgd(_Mover):
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


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
