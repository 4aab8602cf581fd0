"""DINO: likeness to the reference photos by a self-supervised vision transformer. Weights from a folder of yours."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from redcloak.api import Context, Method, Score
from redcloak.config import MethodConfig
from redcloak.errors import UserError
from redcloak.models.features import mean_cosine, middle, normalised

METHOD = Method(
    title="DINO image similarity",
    cite="Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021; DreamBooth, CVPR 2023.",
    license="Apache-2.0; weights: facebook/dino-vits16 Apache-2.0, or whatever the folder is under",
    scores={"dino": Score("DINO", True, -1, 1, "cosine", 8)},
)


class Config(MethodConfig):
    """The weights."""

    weights: Path | None = Field(None, description="a transformers folder, e.g. of facebook/dino-vits16; no default")

    def check(self) -> None:
        """See that the folder is there."""
        if self.weights is None:
            raise UserError("weights: give a folder of facebook/dino-vits16, as in --set dino.weights=FOLDER.")
        if not (self.weights / "config.json").is_file():
            raise UserError(f"weights = {str(self.weights)!r}: no config.json in it; give a transformers folder.")


def dino(images: Tensor, config: Config, context: Context) -> dict[str, Tensor]:
    """The mean cosine of the class token of each picture and those of all reference photos, ``(N,)``.

    Trained without words or labels, so that it tells one dog from another. The middle square is resized to 256/224 of
    the model's side and its middle cropped, as the model was evaluated. Images ``(N, 3, H, W)`` in [0, 1]. Nothing is
    random. Any vision transformer of transformers will do; what it is enters the cache key.

    Raises:
        UserError: the weights are not given or not there, or there is no reference.

    Cite: Caron et al., ICCV 2021; as a score: Ruiz et al., CVPR 2023, section 4.2. License: that of the weights.
    """
    config.check()
    assert config.weights is not None
    model = _model(config.weights, context.suite.device)
    side = int(model.config.image_size)

    def embed(pictures: Tensor) -> Tensor:
        token: Tensor = model(pixel_values=seen(pictures.to(context.suite.device), side)).last_hidden_state[:, 0]
        return token

    return {"dino": mean_cosine("dino", embed, images, context.reference)}


def seen(images: Tensor, side: int) -> Tensor:
    """What an ImageNet model of that side sees of images in [0, 1]: ``(N, 3, side, side)``, normalised."""
    large, edge = round(side * 256 / 224), (round(side * 256 / 224) - side) // 2
    square = F.interpolate(middle(images), size=(large, large), mode="bicubic", antialias=True).clamp(0, 1)
    return normalised(square[..., edge : edge + side, edge : edge + side])


@lru_cache(maxsize=2)
def _model(folder: Path, device: str) -> Any:
    from transformers import AutoModel

    from redcloak.backbone import quietly

    with quietly(), torch.random.fork_rng(devices=[]):
        try:
            model = AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        except Exception as error:  # loaders raise anything on a damaged folder
            raise UserError(f"weights = {str(folder)!r} cannot be read: {error}.") from None
    return model.float().eval().requires_grad_(False).to(device)
