"""How far a photo is from its original: L_inf and L2 of the saved file, PSNR, SSIM."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig
from redcloak.errors import UserError

METHOD = Method(
    title="Fidelity to the original photo",
    cite="Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, IEEE TIP 2004.",
    version=2,
    paired=True,
    scores={
        "linf": Score("L_inf", False, 0, 255, "/255"),
        "l2": Score("L2 (root mean square)", False, 0, 255, "/255"),
        "psnr": Score("PSNR", True, 0, 100, "dB"),
        "ssim": Score("SSIM", True, -1, 1),
    },
)


class Config(MethodConfig):
    """Nothing to set."""


def fidelity(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """Compare each image with its original in ``context.reference``, both as read from the saved files.

    Images ``(N, 3, H, W)`` in [0, 1]. Returns ``linf`` and ``l2`` (the root of the mean squared change, so that
    it does not grow with the photo) in 8-bit steps, ``psnr`` in dB (100 where both are equal), and ``ssim`` (Gaussian
    window of 11 pixels, sigma 1.5, mean over channels), each ``(N,)``.

    Cite: Wang et al., IEEE TIP 2004 (SSIM). License: Apache-2.0.
    """
    original = context.reference
    if original is None or original.shape != images.shape:
        raise UserError("fidelity: it needs the original of each picture, of the same size and in the same order.")
    error = (images - original).flatten(1)
    power = error.pow(2).mean(1)
    psnr = torch.where(power > 0, -10 * torch.log10(power.clamp_min(1e-10)), 100.0)
    steps = {"linf": (error.abs().amax(1) * 255).round(), "l2": power.sqrt() * 255}
    return {**steps, "psnr": psnr, "ssim": ssim(images, original)}


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of ``(N, C, H, W)`` images in [0, 1], ``(N,)``.

    Window 11, sigma 1.5, C1 = 0.01^2, C2 = 0.03^2; only positions where the whole window fits count.
    """
    offsets = torch.arange(-5, 6, dtype=a.dtype, device=a.device)
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    line = line / line.sum()
    window = (line[:, None] * line[None, :]).expand(a.shape[1], 1, 11, 11)

    def local(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=x.shape[1])

    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
    bottom = (mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2)
    return (top / bottom).mean((1, 2, 3))
