"""Where in the spectrum a photo's perturbation lies: what a blur would take away, and what it would not."""

from __future__ import annotations

import torch
from torch import Tensor

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig
from redcloak.errors import UserError

HALF = 0.25  # cycles a pixel: half of the highest frequency along an axis
METHOD = Method(
    title="Spectrum of the perturbation",
    cite="Field, Relations between the statistics of natural images and the response properties of cells, JOSA A 1987.",
    paired=True,
    scores={
        "high_share": Score("energy above 0.25 cycles/pixel", None, 0, 1, "share", 1),
        "mean_frequency": Score("mean frequency", None, 0, 0.7072, "cycles/pixel", 1),
    },
)


class Config(MethodConfig):
    """Nothing to set."""


def spectrum(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """Of the difference of each picture to its original in ``context.reference``, both as read from the saved files.

    ``high_share``: the share of its energy at radial frequencies of at least 0.25 cycles a pixel; of white noise it is
    1 - pi / 16 = 0.804, of what a photo itself looks like near 0. ``mean_frequency``: the radial frequency weighted by
    energy; of white noise 0.383. The mean of each channel's difference counts as frequency 0. nan where nothing was
    changed. Neither direction is better in itself. Images ``(N, 3, H, W)`` in [0, 1]. Nothing is random.

    Raises:
        UserError: an original is missing.

    Cite: Field, JOSA A 1987. License: Apache-2.0.
    """
    original = context.reference
    if original is None or original.shape != images.shape:
        raise UserError("spectrum: it needs the original of each picture, of the same size and in the same order.")
    energy = torch.fft.fft2((images - original).double()).abs().pow(2).sum(1)
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.double) for side in images.shape[-2:])
    radius = (rows[:, None] ** 2 + columns**2).sqrt().to(energy.device)
    total = energy.sum((1, 2))
    share = energy.where(radius >= HALF, 0).sum((1, 2)) / total
    return {"high_share": share.float().cpu(), "mean_frequency": ((energy * radius).sum((1, 2)) / total).float().cpu()}
