"""Total variation minimisation by ADMM: a first-order solver of a problem that papers hand to a conic one.

``min_Z |K (Z - x)|_2 + weight TV_2(Z)``, K the mask of the values that are kept, norms not squared, and

    TV_2(Z) = sum_channels ( sum_i |Z_i+1,: - Z_i,:|_2 + sum_j |Z_:,j+1 - Z_:,j|_2 ),

the l2 norms of the differences of whole rows and of whole columns. Z is split from its copies (itself, its row and its
column differences); given the copies, Z solves ``(1 + D'D) Z = ...``, which the cosine transform makes diagonal, and
given Z each copy is a proximal step in closed form.

With ``largest`` the misfit is the largest singular value of ``K (Z - x)`` instead, what cvxpy takes for the norm 2 of a
matrix. Its proximal step fills the dropped places, too: there it meets a further copy, which has to vanish.

Cite: Guo et al., "Countering Adversarial Images using Input Transformations", ICLR 2018 (the problem); Boyd et al.,
"Distributed Optimization and Statistical Learning via the Alternating Direction Method of Multipliers", 2011, sections
3.3 (stopping), 3.4.1 (step) and 3.4.3 (relaxation).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

RELAXATION, EVERY, TINY = 1.6, 10, 1e-12


def objective(pictures: Tensor, images: Tensor, kept: Tensor, weight: float, largest: bool = False) -> Tensor:
    """What is minimised, a value per picture ``(N,)``."""
    rows, columns = pictures.diff(dim=-2).norm(dim=-1), pictures.diff(dim=-1).norm(dim=-2)
    gap = (pictures - images) * kept
    misfit: Tensor = torch.linalg.matrix_norm(gap, 2).sum(1) if largest else gap.flatten(1).norm(dim=1)
    variation: Tensor = rows.flatten(1).sum(1) + columns.flatten(1).sum(1)
    return misfit + weight * variation


def minimise(
    images: Tensor, kept: Tensor, weight: float, tolerance: float = 1e-4, steps: int = 500, largest: bool = False
) -> Tensor:
    """The minimiser for each of ``(N, C, H, W)`` images; ``kept`` is a mask of their shape.

    ``largest``: the misfit is a channel's largest singular value, summed over channels; an SVD in each iteration.
    Stops for a picture where its primal and dual residuals, each relative to the size of its variables, are below
    ``tolerance``; looked at every ten iterations, at most ``steps`` of them.
    """
    images, kept = images.detach(), kept.to(images)
    invert = _inverse(images)
    mean = (images * kept).sum((1, 2, 3), keepdim=True) / kept.sum((1, 2, 3), keepdim=True).clamp_min(1)
    copies = _spread(images * kept + mean * (1 - kept), largest)
    duals = torch.zeros_like(copies)
    penalty = torch.full_like(mean, 3 * weight)  # where the balancing below mostly arrives
    result, done = images, torch.zeros_like(mean, dtype=torch.bool)
    for step in range(1, steps + 1):
        seen = _spread(invert(_gathered(copies - duals, images)), largest)
        relaxed = torch.lerp(copies, seen, RELAXATION) + duals
        duals = _projected(relaxed, images, kept, weight, penalty)
        moved = relaxed - duals
        if step % EVERY == 0 or step == steps:
            result = torch.where(done, result, _parts(moved, images)[0])
            primal = _ratio(seen - moved, moved)
            dual = _ratio(_gathered(moved - copies, images).flatten(1), duals)
            done |= (primal < tolerance) & (dual < tolerance)
            if done.all():
                break
            balance = (primal.clamp_min(TINY) / dual.clamp_min(TINY)).sqrt().clamp(0.2, 5)
            balance = torch.where((balance > 2) | (balance < 0.5), balance, 1)
            penalty, duals = penalty * balance, duals / balance.flatten(1)
        copies = moved
    return result


def _spread(pictures: Tensor, blank: bool = False) -> Tensor:
    """A picture, its row and its column differences, and a ``blank`` one, as one vector: ``(N, everything)``."""
    parts = [pictures, pictures.diff(dim=-2), pictures.diff(dim=-1), *[torch.zeros_like(pictures)] * blank]
    return torch.cat([part.flatten(1) for part in parts], 1)


def _parts(vectors: Tensor, like: Tensor) -> list[Tensor]:
    """Views of the three or four parts of :func:`_spread`, for pictures of the shape of ``like``."""
    count, channels, height, width = like.shape
    shapes = [(height, width), (height - 1, width), (height, width - 1), (height, width)]
    shapes = shapes[: 4 if vectors.shape[1] > sum(channels * rows * columns for rows, columns in shapes[:3]) else 3]
    pieces = torch.split(vectors, [channels * rows * columns for rows, columns in shapes], 1)
    return [piece.view(count, channels, *shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _gathered(vectors: Tensor, like: Tensor) -> Tensor:
    """The adjoint of :func:`_spread`."""
    picture, down, across = _parts(vectors, like)[:3]
    total = picture.clone()
    total[..., 1:, :] += down
    total[..., :-1, :] -= down
    total[..., 1:] += across
    total[..., :-1] -= across
    return total


def _projected(vectors: Tensor, images: Tensor, kept: Tensor, weight: float, penalty: Tensor) -> Tensor:
    """What a proximal step of a norm takes away (Moreau): the projection onto the ball of its dual norm.

    The misfit of the kept values is one vector of weight 1, each row and each column difference one of ``weight``.
    """
    picture, down, across, *blank = _parts(vectors, images)
    gap = (picture - images) * kept
    differences = [_shortened(down, weight / penalty, (3,)), _shortened(across, weight / penalty, (2,))]
    if blank:
        ball = _flattened(gap + blank[0], 1 / penalty)
        balls = [ball * kept, *differences, ball * (1 - kept)]
    else:
        balls = [_shortened(gap, 1 / penalty, (1, 2, 3)), *differences]
    return torch.cat([ball.flatten(1) for ball in balls], 1)


def _shortened(values: Tensor, radius: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Vectors along ``dims``, those that are longer cut to length ``radius``."""
    length: Tensor = torch.linalg.vector_norm(values, dim=dims, keepdim=True)
    return values * (radius / length.clamp_min(TINY)).clamp_max(1)


def _flattened(matrices: Tensor, radius: Tensor) -> Tensor:
    """Matrices ``(N, C, H, W)``, each projected onto those whose singular values add up to at most ``radius``.

    Cite: Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions", ICML 2008, figure 1.
    """
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    counts = torch.arange(1, values.shape[-1] + 1).to(values)
    excess = (values.cumsum(-1) - radius.squeeze(-1)) / counts
    last = (values > excess).sum(-1, keepdim=True).clamp_min(1) - 1
    values = (values - excess.gather(-1, last).clamp_min(0)).clamp_min(0)
    projected: Tensor = left * values.unsqueeze(-2) @ right
    return projected


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """The length of each row of ``a`` over that of ``b``, ``(N, 1, 1, 1)``."""
    ratio: Tensor = a.norm(dim=1) / b.norm(dim=1).clamp_min(TINY)
    return ratio.view(-1, 1, 1, 1)


def _inverse(like: Tensor) -> Callable[[Tensor], Tensor]:
    """Division by ``1 + D'D``, of differences with free ends."""
    (down, tall), (across, wide) = (_cosines(length, like) for length in like.shape[-2:])
    share = 1 / (1 + tall[:, None] + wide)

    def invert(pictures: Tensor) -> Tensor:
        return down.T @ (down @ pictures @ across.T * share) @ across

    return invert


def _cosines(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The orthonormal cosine transform (DCT-II) of one axis, and the eigenvalues of its second difference."""
    waves = torch.arange(length, dtype=torch.float64)
    matrix = torch.cos(math.pi * waves[:, None] * (waves + 0.5) / length) * math.sqrt(2 / length)
    matrix[0] /= math.sqrt(2)
    return matrix.to(like), (2 - 2 * torch.cos(math.pi * waves / length)).to(like)
