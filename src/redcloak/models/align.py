"""Faces, brought upright into the square that face restorers were trained on, and put back.

A restorer of faces (CodeFormer, GFPGAN) knows one picture: 512x512, eyes, nose and mouth where FFHQ has them.

Cite: Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from redcloak.api import Progress
    from redcloak.models.faces import FaceBackend

SIDE = 512
FEATHER = 64  # pixels of the square over which a restored face fades into the picture
# The mean eyes, tip of the nose and corners of the mouth of FFHQ at 512x512: the points that the released restorers
# align to.
TEMPLATE = torch.tensor(
    [
        [192.98138, 239.94708],
        [318.90277, 240.19360],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)


def restore_faces(
    images: Tensor, restorer: Callable[[Tensor], Tensor], faces: FaceBackend, progress: Progress
) -> Tensor:
    """Restore every face of images ``(N, 3, H, W)`` in [0, 1] and leave the rest, and pictures without one, alone.

    ``restorer`` maps aligned faces ``(F, 3, 512, 512)`` in [0, 1] to restored ones. ``progress`` is told how many faces
    were found, and how many pictures have none.
    """
    rows, counts = [], []
    for image, points in zip(images, faces.landmarks(images), strict=True):
        counts.append(len(points))
        if len(points):
            matrices = torch.stack([similarity(each, TEMPLATE) for each in points]).to(image)
            restored = restorer(torch.stack([align(image, matrix) for matrix in matrices]))
            for face, matrix in zip(restored, matrices, strict=True):
                image = paste(image, face, matrix)
        rows.append(image)
        values = {"faces": float(sum(counts)), "pictures_without_face": float(counts.count(0))}
        progress(len(rows), len(images), values)
    return torch.stack(rows)


def similarity(points: Tensor, target: Tensor) -> Tensor:
    """The rotation, scale and shift ``(2, 3)`` that brings points ``(K, 2)`` nearest to ``target``, in least squares.

    In the plane a similarity is one complex factor and one complex shift, so that Umeyama's solution is the regression
    of one line on complex numbers: no reflection can come out of it.
    """
    z, w = (torch.view_as_complex(each.double().contiguous()) for each in (points, target))
    spread = z - z.mean()
    factor = (spread.conj() * (w - w.mean())).sum() / spread.abs().square().sum()
    shift = w.mean() - factor * z.mean()
    rows = [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]
    return torch.stack([torch.stack(row) for row in rows]).float()


def align(image: Tensor, matrix: Tensor) -> Tensor:
    """The square ``(3, 512, 512)`` that ``matrix`` maps a picture ``(3, H, W)`` to; beyond its edge, the edge."""
    return _sample(image, _inverse(matrix), SIDE, SIDE, "border")


def paste(image: Tensor, face: Tensor, matrix: Tensor) -> Tensor:
    """The picture ``(3, H, W)`` with a face ``(3, 512, 512)`` faded in where it was taken from."""
    height, width = image.shape[-2:]
    mask = _sample(_fading().to(image), matrix, height, width, "zeros")
    return image + mask * (_sample(face.to(image), matrix, height, width, "border") - image)


def _fading() -> Tensor:
    """How much of a restored face counts ``(1, 512, 512)``: 1 in the middle, smoothly to 0 at the edge."""
    places = torch.arange(SIDE)
    edge = torch.minimum(places, SIDE - 1 - places)
    rise = (torch.minimum(edge[:, None], edge[None]) / FEATHER).clamp(0, 1)
    return (rise * rise * (3 - 2 * rise))[None]


def _inverse(matrix: Tensor) -> Tensor:
    turn = torch.linalg.inv(matrix[:, :2].double())
    return torch.cat([turn, -turn @ matrix[:, 2:].double()], 1).to(matrix)


def _sample(image: Tensor, matrix: Tensor, height: int, width: int, beyond: str) -> Tensor:
    """The picture ``(C, height, width)`` whose pixel at ``p`` is ``image``'s at ``matrix @ p``, bicubic.

    Both count from the centre of their first pixel.
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1).to(matrix) @ matrix.T
    sides = torch.tensor([image.shape[-1], image.shape[-2]]).to(matrix)
    grid = (2 * places + 1) / sides - 1
    return F.grid_sample(image[None], grid[None], "bicubic", beyond, align_corners=False)[0].clamp(0, 1)
