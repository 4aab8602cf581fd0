"""KID: how far the pictures as a set are from the reference photos as a set."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig
from redcloak.errors import UserError
from redcloak.metrics.dino import seen
from redcloak.models import mobilenet
from redcloak.sets import contributions

METHOD = Method(
    title="Kernel distance of sets (KID)",
    cite="Binkowski et al., Demystifying MMD GANs, ICLR 2018; on other features than Inception's.",
    license="Apache-2.0; weights: that of the suite's CLIP, or torchvision's MobileNetV2, BSD-3-Clause",
    needs=("clip",),
    scores={"kid": Score("KID", False, -16, 16, "squared, of the cubic kernel", 32, of_set=True)},
)


class Config(MethodConfig):
    """Which features."""

    features: Literal["clip", "mobilenet"] = Field("clip", description="the suite's CLIP, or MobileNetV2 of ImageNet")

    def models(self) -> dict[str, str]:
        """The version of the package of MobileNetV2's weights, where it is asked for."""
        return {mobilenet.PACKAGE: version(mobilenet.PACKAGE)} if self.features == "mobilenet" else {}

    def check(self) -> None:
        """See that the package of MobileNetV2's weights is installed, where it is asked for."""
        if self.features == "mobilenet":
            mobilenet.check()


def kid(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """What each picture adds to the distance of the two sets, ``(N,)``: their mean is the unbiased KID.

    All pictures are one subset, so that its size always fits; means over subsets are in :mod:`redcloak.sets`. Features
    are brought to length sqrt(D), so that the kernel is (cosine + 1)^3 and the value bounded; it is not the KID of
    Inception, and compares within one choice of features. nan for fewer than two pictures or references. A picture's
    value depends on its companions, so that there is no interval over pictures, only over subjects or seeds, for the
    reference as it is. Images ``(N, 3, H, W)`` in [0, 1]. Nothing is random.

    Raises:
        UserError: no reference, or the weights are not installed.

    Cite: Binkowski et al., ICLR 2018. License: that of the features.
    """
    if context.reference is None:
        raise UserError("kid: it needs reference photos of the subject; give --reference.")
    embed = _mobilenet(context.suite.device) if config.features == "mobilenet" else context.suite.clip.embed_images
    with torch.no_grad():
        ours, theirs = (F.normalize(embed(each), dim=1).double().cpu() for each in (images, context.reference))
    long = ours.shape[1] ** 0.5
    return {"kid": contributions(ours * long, theirs * long).float()}


def _mobilenet(device: str) -> Callable[[Tensor], Tensor]:
    net = mobilenet.load(device)
    return lambda images: net(seen(images.to(device), 224))
