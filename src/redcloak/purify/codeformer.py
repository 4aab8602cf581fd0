"""CodeFormer: every face restored from a codebook of clean faces. Weights from a file of yours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Generator, Tensor

from redcloak.api import Context, Method
from redcloak.models.align import restore_faces
from redcloak.models.restorers import NetworkConfig

METHOD = Method(
    title="CodeFormer",
    cite="Zhou et al., Towards Robust Blind Face Restoration with Codebook Lookup Transformer, NeurIPS 2022.",
    license="S-Lab License 1.0, non-commercial (the network and its weights); extra restore-nc",
    needs=("faces",),
)


class Config(NetworkConfig):
    """The weights, and how far they are trusted."""

    architectures: ClassVar[tuple[str, ...]] = ("CodeFormer",)

    fidelity: float = Field(0.5, ge=0, le=1, description="w: 0 trusts the codebook, 1 the picture")


def codeformer(images: Tensor, config: Config, context: Context, generators: Sequence[Generator]) -> Tensor:
    """Find every face, bring it to 512x512, restore it at ``fidelity``, and fade it back in.

    Images ``(N, 3, H, W)`` in [0, 1] -> the same shape. Nothing is random. What is no face stays as it was, and so does
    a picture without one: ``pictures_without_face`` is reported. The released script finds faces with RetinaFace and
    fades along a parsed outline of the face; here YuNet finds them and the aligned square fades.

    Cite: Zhou et al., NeurIPS 2022; its use as a purifier: Liu et al., arXiv 2406.18944, section 4.2.
    License: S-Lab License 1.0, non-commercial.
    """
    restorer = config.network(context.suite.device).of_faces(config.fidelity)
    return restore_faces(images, restorer, context.suite.faces, context.progress)
