"""GFPGAN: every face redrawn by a generator of faces. Weights from a file of yours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.models.align import restore_faces
from redcloak.models.restorers import NetworkConfig

METHOD = Method(
    title="GFPGAN",
    cite="Wang et al., Towards Real-World Blind Face Restoration with Generative Facial Prior, CVPR 2021.",
    license="Apache-2.0 with non-commercial parts (see the authors' LICENSE); extra restore-nc",
    needs=("faces",),
)


class Config(NetworkConfig):
    """The weights."""

    architectures: ClassVar[tuple[str, ...]] = ("GFPGAN",)


def gfpgan(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Find every face, bring it to 512x512, restore it, and fade it back in.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Nothing is random: the generator's noise is the one stored with
    the weights, where the released script draws it anew. What is no face stays as it was, and so does a picture without
    one: ``pictures_without_face`` is reported.

    Cite: Wang et al., CVPR 2021. License: Apache-2.0 with non-commercial parts.
    """
    restorer = config.network(context.suite.device).of_faces()
    return restore_faces(images, restorer, context.suite.faces, context.progress)
