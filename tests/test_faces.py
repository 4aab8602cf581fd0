"""Identity: back ends behind one Protocol, outcomes of files, groups of faces, and the paper's IMS."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from fake_run import finished
from torch import Tensor
from torch.nn.functional import normalize

from redcloak.api import Context
from redcloak.audit import Audit
from redcloak.bench.ahead import check_people
from redcloak.bench.config import MatrixConfig
from redcloak.bench.digests import Digests
from redcloak.bench.grid import Matrix
from redcloak.checks import run_checks
from redcloak.cli import main
from redcloak.config import AuditConfig
from redcloak.detection import Outcome, detect, one_person, people
from redcloak.errors import UserError
from redcloak.images import save_images, to_tensor
from redcloak.metrics.ims import Config, accept, ims
from redcloak.models import recognisers
from redcloak.models.faces import Faces, VerifyFace
from redcloak.models.recognisers import AntelopeV2, ClipFaces, Dlib, recogniser
from redcloak.parsing import validate
from redcloak.portraits import subject
from redcloak.suite import Suite

BACKENDS = {"verifyface": (128, 0.1), "dlib": (128, 0.01)}  # the size of an embedding, and a gap between people


class Corner:
    """A face is where the first pixel is not black; the embedding is its colour, so cosines can be set."""

    name, same = "corner", 0.9

    def fingerprint(self) -> str:
        return self.name

    def __call__(self, images: Tensor) -> Faces:
        colour = images[:, :, 0, 0]
        found = colour.sum(1) > 0
        return Faces(torch.where(found[:, None], normalize(colour, dim=1), torch.nan), found.float())


def at(*degrees: float | None) -> Tensor:
    """Pictures whose embeddings lie at these angles in a plane; None: no face."""
    angles = torch.tensor([0.0 if each is None else each for each in degrees]).deg2rad()
    colour = torch.stack([angles.cos(), angles.sin(), torch.zeros(len(angles))], 1).clamp_min(0)
    colour[[each is None for each in degrees]] = 0
    return colour[..., None, None].expand(-1, -1, 8, 8).contiguous()


@pytest.fixture
def corner(context: Context) -> Context:
    return replace(context, suite=SimpleNamespace(faces=Corner()), reference=at(0, 20))


@pytest.fixture(scope="module")
def two_people() -> Tensor:
    return torch.cat([to_tensor(subject(number, shots=2, size=128)) for number in (1, 2)])


@pytest.mark.parametrize("name", BACKENDS)
def test_every_back_end_keeps_the_protocol(name: str, two_people: Tensor):
    backend, (size, gap) = recogniser(name), BACKENDS[name]
    images = torch.cat([two_people, torch.zeros(1, 3, 128, 128)])
    faces = backend(images)
    assert faces.embeddings.shape == (5, size)
    assert faces.found.tolist() == [True] * 4 + [False]
    assert faces.embeddings[4].isnan().all()
    assert torch.allclose(faces.embeddings[:4].norm(dim=1), torch.ones(4), atol=1e-5)
    assert bool(((faces.scores >= 0) & (faces.scores <= 1)).all())
    assert torch.equal(backend(images).embeddings[:4], faces.embeddings[:4])
    alike = faces.embeddings[:4] @ faces.embeddings[:4].T
    assert min(alike[0, 1], alike[2, 3]) > alike[:2, 2:].max() + gap
    assert name.startswith(backend.name)
    assert backend.fingerprint()


def test_the_back_ends_find_the_same_eyes(two_people: Tensor):
    for one, other in zip(VerifyFace().landmarks(two_people), Dlib().landmarks(two_people), strict=True):
        assert one.shape == other.shape == (1, 5, 2)
        assert (one - other).abs().max() < 10  # of 128 pixels
    assert [len(points) for points in Dlib().landmarks(torch.zeros(1, 3, 64, 64))] == [0]


def test_the_suite_s_clip_takes_every_picture_for_a_face(suite: Suite, photos: Tensor):
    backend = ClipFaces(suite)
    faces = backend(photos)
    assert torch.equal(faces.embeddings, suite.clip.embed_images(photos))
    assert faces.found.all()
    assert suite.fingerprint("clip") in backend.fingerprint()
    with pytest.raises(UserError, match="faces = clip: it finds no eyes"):
        backend.landmarks(photos)


def test_a_suite_names_its_back_end(suite_folder: Path, tmp_path: Path):
    for name, kind in {"verifyface": VerifyFace, "dlib": Dlib, "clip": ClipFaces}.items():
        (tmp_path / "suite.yaml").write_text(f"{(suite_folder / 'suite.yaml').read_text()}faces: {name}\n")
        assert isinstance(Suite(tmp_path).faces, kind)


def test_absent_weights_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"antelopev2 needs scrfd_10g_bnkps.onnx in .* \(non-commercial\)"):
        AntelopeV2(tmp_path)

    def absent(name: str) -> str:
        raise recognisers.PackageNotFoundError(name)

    monkeypatch.setattr(recognisers, "version", absent)
    with pytest.raises(UserError, match=r"pip install 'redcloak\[dlib\]'"):
        Dlib()
    (tmp_path / "models" / "antelopev2").mkdir(parents=True)
    for name in AntelopeV2.WEIGHTS:
        (tmp_path / "models" / "antelopev2" / name).write_bytes(b"weights")
    with pytest.raises(UserError, match=r"pip install 'redcloak\[insightface-nc\]'"):
        AntelopeV2(tmp_path)


def test_antelopev2_takes_the_largest_face_in_the_colours_that_insightface_expects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """insightface itself is not here: a stand-in records what it is asked."""
    seen: list[np.ndarray] = []

    class FaceAnalysis:
        def __init__(self, name: str, root: str, allowed_modules: list[str]) -> None:
            assert (name, root, allowed_modules) == ("antelopev2", str(tmp_path), ["detection", "recognition"])

        def prepare(self, ctx_id: int, det_size: tuple[int, int]) -> None: ...

        def get(self, picture: np.ndarray) -> list[SimpleNamespace]:
            seen.append(picture)
            if not picture.any():
                return []
            small, large = np.eye(512)[:2]
            kps = np.full((5, 2), 10.0)
            return [
                SimpleNamespace(bbox=np.array([0, 0, 2, 2]), normed_embedding=small, det_score=0.9, kps=kps),
                SimpleNamespace(bbox=np.array([0, 0, 9, 9]), normed_embedding=large, det_score=0.8, kps=kps),
            ]

    app = ModuleType("insightface.app")
    app.FaceAnalysis = FaceAnalysis
    monkeypatch.setitem(sys.modules, "insightface", ModuleType("insightface"))
    monkeypatch.setitem(sys.modules, "insightface.app", app)
    monkeypatch.setattr(recognisers, "version", lambda name: "2.1")
    (tmp_path / "models" / "antelopev2").mkdir(parents=True)
    for name in AntelopeV2.WEIGHTS:
        (tmp_path / "models" / "antelopev2" / name).write_bytes(name.encode())
    backend = AntelopeV2(tmp_path)
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 8, 8)
    faces = backend(torch.stack([red, torch.zeros(3, 8, 8)]))
    assert faces.embeddings[0].tolist() == np.eye(512)[1].tolist()
    assert faces.scores.tolist() == pytest.approx([0.8, 0])
    assert faces.embeddings[1].isnan().all()
    assert seen[0][0, 0].tolist() == [0, 0, 255], "blue, green, red"
    assert backend.landmarks(red[None])[0].shape == (2, 5, 2)
    assert backend.fingerprint().startswith("insightface 2.1 ")


def test_a_broken_file_is_never_no_face(tmp_path: Path):
    paths = save_images(tmp_path, at(0, None, 10))
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:40])
    detection = detect([*paths, broken], Corner())
    assert list(detection.outcomes.values()) == [Outcome.FACE, Outcome.NO_FACE, Outcome.FACE, Outcome.UNREADABLE]
    assert detection.fdfr == pytest.approx(1 / 3), "of the three that could be read"
    assert "broken.png' cannot be read" in detection.reasons["broken.png"]
    assert np.isnan(detect([broken], Corner()).fdfr)

    class Failing(Corner):
        def __call__(self, images: Tensor) -> Faces:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        detect(paths, Failing())


def test_faces_are_grouped_by_whom_they_show():
    faces = Corner()(at(0, 80, 20, None, 40, 85))  # 0, 20 and 40 are linked, 0 and 40 alone would not be
    assert people(faces, 0.93) == [[0, 2, 4], [1, 5]]
    assert people(faces, 0.999) == [[0], [1], [2], [4], [5]]
    assert people(Corner()(at(None)), 0.9) == []


def test_two_people_in_one_folder_are_named_and_a_folder_without_faces_is_refused(two_people: Tensor):
    names = ["a.png", "b.png", "c.png", "d.png"]
    assert one_person(at(0, 5, 10, None), names, Corner()) is None
    found = one_person(at(0, 80, 3, 6), names, Corner())
    assert found == "b.png seems to show someone else than the rest."
    flags = [flag for flag in run_checks(finished(strangers=found)) if flag.anchor == "two-people"]
    assert [flag.message for flag in flags] == [found]
    with pytest.raises(UserError, match="photos: corner finds no face in any of the 2 photos"):
        one_person(at(None, None), names[:2], Corner())
    assert one_person(two_people, names, recogniser("dlib")) == "c.png, d.png seem to show someone else than the rest."


@pytest.fixture
def odd(suite_folder: Path, two_people: Tensor, tmp_path: Path) -> str:
    """A suite; beside it, photos of ``two`` people and of ``none``."""
    save_images(tmp_path / "two", two_people)
    save_images(tmp_path / "none", torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    suite = shutil.copytree(suite_folder, tmp_path / "suite")
    with (suite / "suite.yaml").open("a") as file:
        file.write("faces: dlib\n")  # which tells drawn people apart more surely than its makers' limit of SFace does
    return str(suite)


def test_an_audit_looks_at_the_faces_before_it_trains(odd: str, tmp_path: Path):
    both = {"suite": odd, "protection": {"name": "none"}, "class_images": 0}
    strangers = Audit.prepare(AuditConfig(photos=str(tmp_path / "two"), **both), tmp_path / "out")._strangers()
    assert strangers == "002.png, 003.png seem to show someone else than the rest."
    several = AuditConfig(photos=("drawn:7", str(tmp_path / "two")), **both)
    assert f"two: {strangers}" in str(Audit.prepare(several, tmp_path / "out")._strangers())
    faceless = AuditConfig(photos=str(tmp_path / "none"), **both)
    with pytest.raises(UserError, match="photos of 'none': dlib finds no face in any of the 3 photos"):
        Audit.prepare(faceless, tmp_path / "out").run()
    assert not list((tmp_path / "out").glob("store/*/*")), "nothing was made"
    of_things = Audit.prepare(faceless.model_copy(update={"metrics": ("quality", "clip_i")}), tmp_path / "out")
    assert of_things._strangers() is None


def test_personalize_looks_at_the_faces_before_it_trains(odd: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    quick = ["--suite", odd, "--set", "class_images=0", "--set", "prior_weight=0", "--set", "steps=1"]
    assert main(["personalize", str(tmp_path / "none"), *quick, "--out", str(tmp_path / "model")]) == 2
    assert "none': dlib finds no face in any of the 3 photos" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    things = ["--set", "metrics=[quality]"]
    assert main(["personalize", str(tmp_path / "none"), *quick, *things, "--out", str(tmp_path / "thing")]) == 0
    assert main(["personalize", str(tmp_path / "two"), *quick, "--out", str(tmp_path / "model")]) == 0
    told = capsys.readouterr().err
    assert f"warning: photos of {str(tmp_path / 'two')!r}: 002.png, 003.png seem to show someone else" in told


def test_a_bench_looks_once_at_whoever_is_missing(
    odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    given = {"suite": odd, "protections": ["photoguard"], "purifiers": ["none"], "seeds": [0]}

    def matrix(**changes: object) -> Matrix:
        people = {"subjects": [str(tmp_path / name) for name in ("two", "none")]}
        return Matrix.of(validate(MatrixConfig, people | given | changes, "m"), Digests(tmp_path / "photos.json"))

    def keys(label: str) -> set[str]:
        mine, others = (
            {node.key for arm in first.arms if arm.axes.subject.endswith(label) == own for node in arm.targets}
            for own in (True, False)
        )
        return mine - others

    told: list[str] = []
    first = matrix()
    check_people(first, set(), told.append)
    assert told == []
    check_people(first, keys("two"), told.append)
    assert told == [f"subject {str(tmp_path / 'two')!r}: 002.png, 003.png seem to show someone else than the rest."]
    with pytest.raises(UserError, match="photos of 'none': dlib finds no face in any of the 3 photos"):
        check_people(first, keys("none"), told.append)
    check_people(matrix(metrics=["quality"]), keys("none"), told.append)
    monkeypatch.setattr(Dlib, "__call__", None)
    again = matrix()
    assert list(again.strangers.values()) == [told[0].partition(": ")[2], None]
    check_people(again, keys("two"), told.append)
    assert told[1:] == told[:1], "remembered"
    monkeypatch.undo()
    (tmp_path / "m.yaml").write_text(json.dumps(given | {"subjects": [str(tmp_path / "none")]}))
    assert main(["bench", "run", str(tmp_path / "m.yaml"), "--out", str(tmp_path / "run")]) == 2
    assert "dlib finds no face" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("store/*/*")), "nothing was made"
    assert main(["bench", "plan", str(tmp_path / "m.yaml"), "--out", str(tmp_path / "run")]) == 0


def test_ims_is_the_paper_s_formula(corner: Context):
    """Against the definition, in numpy, one picture after the other."""
    angles, references, limit = (0.0, 30.0, 50.0, 80.0), (0.0, 20.0), 0.1
    values = ims(at(*angles), Config(distance=limit), corner)
    for row, angle in enumerate(angles):
        distances = 1 - np.cos(np.deg2rad([angle - other for other in references]))
        kept = distances[distances <= limit]
        ruled = 1 - kept.mean() if len(kept) else -1.0
        cosine = 1 - distances.mean()
        assert float(values["ims_rule"][row]) == pytest.approx(ruled, abs=1e-5)
        assert float(values["ims_cosine"][row]) == pytest.approx(cosine, abs=1e-5)
        assert float(values["ims"][row]) == pytest.approx(0.7 * cosine + 0.3 * ruled, abs=1e-5)
    assert (values["ims_rule"] < 0).tolist() == [False, False, True, True]


def test_a_picture_without_a_face_cannot_drop_out_of_ims(corner: Context):
    values = ims(at(None, 0), Config(), corner)
    assert values["ims_cosine"].isnan().tolist() == [True, False]
    assert values["ims_rule"][0] == -1
    assert float(values["ims"][0]) == pytest.approx(-0.3)


def test_the_mean_of_the_rule_is_ruled_by_how_many_are_accepted():
    accepted = accept(torch.tensor([[0.3], [0.3], [0.5], [float("nan")]]), 0.4)
    assert accepted.tolist() == pytest.approx([0.7, 0.7, -1, -1])
    assert float(accepted.mean()) == pytest.approx(1.7 * 0.5 - 1), "1.7 a - 1 at an accept rate of a = 0.5"


def test_ims_with_two_real_recognisers(context: Context, two_people: Tensor):
    same, other = two_people[:2], two_people[2:]
    values = ims(same, Config(recogniser="dlib"), replace(context, reference=same))
    strangers = ims(other, Config(recogniser="dlib"), replace(context, reference=same))
    assert values["ims_rule"].min() > 0.9
    assert strangers["ims_rule"].tolist() == [-1, -1]
    assert values["ims"].min() > strangers["ims"].max() + 0.5
    assert Config().models() == {}
    assert Config(recogniser="dlib").models() == {"dlib": recogniser("dlib").fingerprint()}


def test_ims_says_what_it_misses(corner: Context, suite: Suite):
    with pytest.raises(UserError, match="ims: it needs reference photos"):
        ims(at(0), Config(), replace(corner, reference=None))
    with pytest.raises(UserError, match="ims: corner found no face in the reference photos"):
        ims(at(0), Config(), replace(corner, reference=at(None)))
    own = replace(corner, suite=SimpleNamespace(faces=ClipFaces(suite)))
    with pytest.raises(UserError, match="nobody has said where clip accepts"):
        ims(at(0), Config(), own)
