"""The benchmarks of decoupling and of full size: what they would run, not what it gives."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from redcloak.arms import Builder
from redcloak.backbone import Backbone
from redcloak.config import AuditConfig
from redcloak.report.table import Row, Table
from redcloak.runtime.matrix import Graph
from redcloak.stats import Sample
from redcloak.subjects import load_subject
from redcloak.suite import Suite, load

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def cdl() -> Iterator[ModuleType]:
    yield from _imported("cdl")


@pytest.fixture(scope="module")
def full_size() -> Iterator[ModuleType]:
    yield from _imported("full_size")


def _imported(name: str) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield __import__(name)
    for module in [
        each for each, found in sys.modules.items() if str(BENCHMARKS) in str(getattr(found, "__file__", ""))
    ]:
        del sys.modules[module]


def asked(**more: object) -> argparse.Namespace:
    given = {"parts": ["factorial", "words"], "sources": ["protected", "protected + CodeSR", "clean"], "subjects": 8}
    return argparse.Namespace(**given, protection="random_noise", **more)


def test_cells_that_differ_in_sampling_alone_share_their_trainings(cdl: ModuleType, suite: Suite):
    folder = str(suite.folder)
    config = AuditConfig(photos="drawn:3", suite=folder, protection="random_noise", seeds=(0, 1), metrics=("quality",))
    graph = Graph()
    builder = Builder(config, load(folder), load_subject(config.photos, 64), graph)
    arms = cdl.arms_of(builder, asked(), ["jpeg"])
    assert len({arm.summary.name for arm in arms}) == len(arms) == 3 * (8 + 8) + 2
    stages = [node.stage for node in graph.order()]
    trainings = 3 * (4 + 8) + 2
    assert stages.count("personalize") == 2 * trainings
    assert stages.count("generate") == 2 * len(arms)
    assert stages.count("class_images") == stages.count("protect") == 1


@pytest.mark.parametrize(
    ("parts", "arms", "families"),
    [(["words"], 2 + 8, 1), (["factorial"], 8, 1), (["factorial", "words"], 8 + 8, 2), ([], 0, 0)],
)
def test_words_are_compared_with_text_whatever_else_runs(cdl: ModuleType, parts: list[str], arms: int, families: int):
    args = argparse.Namespace(parts=parts)
    ways = list(cdl.ways(args))
    assert len(ways) == arms
    rows = [Row("s", f"clean | {name}", 0, "generated", "", "0.png", "identity_zero", 0.3) for name in ways]
    found = cdl.families(Table.of(rows), args, "clean")
    assert len(found) == families
    if "words" in parts:
        assert {name.partition(" - ")[2] for name in found[-1]} == {"text"}
        assert len(found[-1]) == 8


def test_the_factorial_is_the_eight_cells(cdl: ModuleType):
    assert list(cdl.FACTORIAL.values()) == ["".join(cell) for cell in product("-+", repeat=3)]
    said = set()
    for switches, name in cdl.FACTORIAL.items():
        words = cdl.decoupling(*switches)
        named, denied = words.instance(_person()).endswith("pattern"), "without" in words.prior(_person())
        sampled = "without" in words.sampling("a dog")
        assert (named, denied, sampled) == switches
        assert bool(words.negative) == sampled
        said.add((name, words))
    assert len(said) == 8


def test_what_cdl_adds_to_a_purifier_is_tested_over_people(cdl: ModuleType, capsys: pytest.CaptureFixture[str]):
    rng, gains = np.random.default_rng(0), {"jpeg": 0.3, "tvm": 0.0}
    rows = [
        Row(f"s{person}", arm, 0, "generated", "", "0.png", "identity_zero", 0.3 + added + 0.02 * rng.normal())
        for person in range(8)
        for name, gain in gains.items()
        for arm, added in ((name, 0.0), (f"{name} + CDL", gain))
    ]
    args = argparse.Namespace(parts=[], sources=[], subjects=8)
    found = cdl.tables(Table.of(rows), args, list(gains))
    table = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert table[0][3:] == ["difference", "p (Holm of 2)", "smallest detectable"]
    jpeg, tvm = table[1:]
    assert jpeg[:4] == ["jpeg", *found["purifiers"]["jpeg"], found["effects"]["purifiers: jpeg + CDL - jpeg"][0]]
    assert float(jpeg[3].split()[0]) == pytest.approx(0.3, abs=0.03)
    assert float(jpeg[4]) == pytest.approx(2 * 2**-7, abs=5e-4)
    assert float(tvm[4]) > 0.05
    assert 0 < float(tvm[5]) < 0.1


def test_a_family_says_what_it_could_have_found(cdl: ModuleType, capsys: pytest.CaptureFixture[str]):
    people = np.array([f"s{person}" for person in range(7)])
    low, seeds = np.random.default_rng(1).normal(0.4, 0.02, 7), np.zeros(7, dtype=np.int64)
    pair = Sample(low + 0.1, people, seeds), Sample(low[::-1], people, seeds)
    cdl.effects("clean", dict.fromkeys("ab", pair))
    head, _, first, _ = capsys.readouterr().out.strip().splitlines()[:4]
    assert head == "| clean: identity | difference | p (Holm of 2) | smallest detectable |"
    assert 0 < float(first.strip("| ").split(" | ")[-1]) < 0.2
    cdl.effects("clean", dict.fromkeys("abcd", pair))
    assert capsys.readouterr().out.count("| inf |") == 4


def _person():
    from redcloak.api import Subject

    return Subject()


def test_a_small_model_of_random_weights_is_read(full_size: ModuleType, tmp_path: Path):
    count = full_size.write_model(tmp_path / "model", True, 64)
    backbone = Backbone.load(tmp_path / "model")
    parts = (backbone.vae, backbone.unet, backbone.text_encoder)
    assert sum(parameter.numel() for part in parts for parameter in part.parameters()) == count
    assert backbone.embed(["a photo of sks person"]).shape == (1, 77, 32)
    assert load(str(tmp_path / "model")).spec.resolution == 64


def test_the_full_model_is_as_large_as_stable_diffusion_2_1(full_size: ModuleType):
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, **full_size.UNET)
    assert sum(parameter.numel() for parameter in unet.parameters()) == 865_910_724


def test_a_step_over_the_limit_is_stopped(full_size: ModuleType, tmp_path: Path):
    assert full_size.resident(os.getpid()) > 0.01
    row = full_size.measured(["doctor"], tmp_path / "out", limit=0.005)
    assert row["status"] == "stopped over 0.005 GiB"
    assert row["GiB"] > 0.005
    assert full_size.measured(["lst"], tmp_path / "out", limit=20)["status"].startswith(
        "failed: error: No such command"
    )
