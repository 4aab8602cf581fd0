"""Concept extraction: the words that are asked for, and the sheet that answers them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from redcloak.api import Subject
from redcloak.cli import main
from redcloak.concepts import SHEET, TITLES, prompts, sheet
from redcloak.images import list_images, read_image
from redcloak.prompts import NONE, Decoupling


def test_each_word_is_asked_for_alone():
    assert prompts(Subject("dog", "xyz"), Decoupling()) == {
        "identifier": "a photo of xyz",
        "class_noun": "a photo of dog",
        "subject": "a photo of xyz dog",
        "noise_token": "a photo of bhj noisy pattern",
        "with_noise": "a photo of xyz dog, bhj noisy pattern",
        "without_noise": "a photo of xyz dog, without bhj noisy pattern",
    }
    assert list(prompts(Subject(), Decoupling())) == list(TITLES)


def test_the_noise_is_named_and_denied_whatever_the_switches_say():
    assert prompts(Subject(), NONE) == prompts(Subject(), Decoupling(quality_tags=True))
    new = prompts(Subject(), Decoupling(tokens="shared", count=2))
    assert new["noise_token"] == "a photo of <noise-1> <noise-2>"
    assert new["without_noise"].endswith("without <noise-1> <noise-2>")


@pytest.mark.parametrize(("size", "side"), [(16, 96), (64, 128), (100, 100), (512, 256)])
def test_the_sheet_has_every_picture_in_its_row(size: int, side: int):
    """Flat pictures of six colours: each is found in its own row, at the side it should have, and nowhere else."""
    colours = [(200, 10, 10), (10, 200, 10), (10, 10, 200), (200, 200, 10), (200, 10, 200), (10, 200, 200)]
    pictures = [np.full((size, size, 3), colour, np.uint8) for colour in colours]
    page = sheet([(f"row {row}", "a prompt", pictures[2 * row : 2 * row + 2]) for row in range(3)])
    tops = []
    for index, colour in enumerate(colours):
        high, wide = np.nonzero((page == np.array(colour, np.uint8)).all(-1))
        assert (len(np.unique(high)), len(np.unique(wide))) == (side, side)
        tops.append((high.min(), wide.min()))
        assert tops[index][0] == tops[index - index % 2][0]
    assert tops == sorted(tops)
    for top, _ in tops[::2]:  # the title is ink above the pictures
        assert (page[top - side // 10 : top].min(-1) < 128).any()


def test_a_model_is_asked_from_the_command_line(suite_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "drawn"
    common = ["--set", "sampling_steps=1", "-n", "2", "--out", str(out)]
    assert main(["generate", str(suite_folder), "--concepts", *common, "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)["prompts"]
    assert asked == prompts(Subject(), Decoupling())
    for name, prompt in asked.items():
        assert len(list_images(out / name)) == 2
        assert set(json.loads((out / name / "prompts.json").read_text()).values()) == {prompt}
    assert read_image(out / SHEET).shape[0] > 6 * 128
    first = [read_image(list_images(out / name)[0]) for name in ("identifier", "noise_token")]
    assert not np.array_equal(*first), "the same noise, other words"
    assert main(["generate", str(suite_folder), "--concepts", "--cdl", *common]) == 2
    assert "--concepts asks in words of its own" in capsys.readouterr().err
