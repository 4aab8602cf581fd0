"""Projected gradient ascent inside a budget, ending on the 8-bit lattice of the PNG that will be saved.

    x_{k+1} = P( x_k + a_k * rule(grad L(x_k)) ),    P: the ball around x_0, cut with [0, 1]

Photos that do not depend on each other go through the model in passes of one fixed size, the last one filled up: the
same kernels whatever their companions, so that the same seed gives the same bytes for any batch. Small photos go four
at a time (on the small suite 1.7 times faster than one by one), large ones singly, in the least memory.

Cite: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from redcloak.api import Context
from redcloak.crafting.objectives import EVERY, Objective, Rows, through, value_and_gradient
from redcloak.crafting.rules import Mover, Plan, mover_of
from redcloak.errors import UserError

GROUP = 4
SMALL = 128 * 128  # pixels of a photo that is grouped


class Diverged(UserError):
    """A loss or a gradient is no number; ``images`` is the last good result, not on the lattice."""

    def __init__(self, photo: int, step: int, images: Tensor) -> None:
        super().__init__(
            f"photo {photo + 1}: the loss or its gradient is not a number at step {step + 1}; "
            "try a smaller lr or step_size, or full precision."
        )
        self.photo, self.step, self.images = photo, step, images


def check_finite(losses: Tensor, gradient: Tensor, step: int, images: Tensor) -> None:
    """See that the loss and the gradient of each of ``images`` are numbers.

    Raises:
        Diverged: those of one are not; it names the first.
    """
    good = losses.isfinite().to(gradient.device) & gradient.flatten(1).isfinite().all(1)
    if not good.all():
        raise Diverged(int((~good).nonzero()[0, 0]), step, images)


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
    mover = mover_of(origin, plan)
    first = 0
    if resumed:
        images, first = resumed["images"][rows], int(resumed["step"])
        mover.load(resumed)
        for index, stream in enumerate(generators):
            stream.set_state(resumed[f"generator.{index}"])
    for step in range(first, plan.steps):
        losses, gradient = gradients(objective, images, generators, rows)
        check_finite(losses, gradient, step, images)
        images = mover.move(images, losses, gradient, step)
        follow.tell(step, losses)
        follow.keep(everything, rows, images, step, mover, generators)
    return mover.result(images)


def gradients(
    objective: Objective, images: Tensor, generators: Sequence[Generator], rows: slice
) -> tuple[Tensor, Tensor]:
    """Loss and gradient of each image, the photos ``rows``; of large ones singly, in the memory of one."""
    if len(images) == 1 or group_size(images) > 1:
        return value_and_gradient(objective, images, generators, rows)
    found = [
        value_and_gradient(objective, images[row, None], [stream], slice(rows.start + row, rows.start + row + 1))
        for row, stream in enumerate(generators)
    ]
    losses, slopes = zip(*found, strict=True)
    return torch.cat(losses), torch.cat(slopes)


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
        mover: Mover,
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
