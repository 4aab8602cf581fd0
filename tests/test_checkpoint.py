from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from redcloak.api import Context
from redcloak.registry import load, names
from redcloak.rng import generator, generators
from redcloak.runtime import checkpoint
from redcloak.runtime.checkpoint import FileCheckpoint

SHORT = {
    "advdm": {"steps": 5, "step_size": 3.0},
    "photoguard": {"steps": 5, "rule": "apgd"},
    "aspl": {"rounds": 4, "clean_steps": 1, "ascent_steps": 2, "protected_steps": 1, "lr": 3e-3},
    "easpl": {"rounds": 4, "clean_steps": 1, "ascent_steps": 2, "protected_steps": 1, "lr": 3e-3},
    "efsmg": {"train_steps": 2, "rounds": 4, "ascent_steps": 1, "lr": 3e-3},
    "shuffled": {"base": {"name": "advdm", "settings": {"steps": 5, "step_size": 3.0}}, "turns": 2},
    "metacloak": {"train_steps": 2, "snapshots": 2, "rounds": 1, "unroll": 2, "ascent_steps": 2, "lr": 3e-3},
}


class Killed(Exception):
    """In the place of a kill."""


def test_a_state_comes_back_and_a_damaged_one_is_none(tmp_path: Path):
    kept = FileCheckpoint(tmp_path / "a", seconds=0)
    assert kept.load() == {}
    kept.save(lambda: {"x": torch.arange(3)})
    assert FileCheckpoint(tmp_path / "a").load()["x"].tolist() == [0, 1, 2]
    (tmp_path / "a" / "state.safetensors").write_bytes(b"nonsense")
    assert kept.load() == {}


def test_a_state_is_not_asked_for_before_its_time(tmp_path: Path):
    def never() -> dict[str, Tensor]:
        raise AssertionError

    FileCheckpoint(tmp_path, seconds=1000).save(never)


@pytest.mark.parametrize("name", SHORT)
def test_a_protection_that_was_killed_ends_as_if_it_had_not_been(
    name: str, photos: Tensor, context: Context, tmp_path: Path
):
    entry = load("protect", name)
    config = entry.configure(**SHORT[name])
    images = torch.cat([photos, 1 - photos])  # two passes of a method that takes photos on their own
    whole = entry.function(images, config, context, generators(0, "p", 6))

    def run(limit: int) -> Tensor:
        told = 0

        def follow(done: int, total: int, values: dict[str, float]) -> None:
            nonlocal told
            told += 1
            if told > limit:
                raise Killed

        kept = replace(context, progress=follow, checkpoint=FileCheckpoint(tmp_path, seconds=0))
        return entry.function(images, config, kept, generators(0, "p", 6))

    for limit in (3, 5):
        with pytest.raises(Killed):
            run(limit)
    assert FileCheckpoint(tmp_path).load(), "something was kept"
    assert torch.equal(run(10**6), whole)


@pytest.mark.parametrize("name", names("personalize"))
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(
    name: str, photos: Tensor, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checkpoint, "COST", 0)
    entry, backbone = load("personalize", name), context.suite.backbone
    config = entry.configure(steps=6, lr=1e-3, batch=2, report_every=1)
    losses: list[float] = []

    def run(limit: int, kept: Path | None) -> dict[str, Tensor]:
        def follow(done: int, total: int, values: dict[str, float]) -> None:
            losses.append(values["loss"])
            if done == limit:
                raise Killed

        state = FileCheckpoint(kept, seconds=0) if kept else context.checkpoint
        with backbone.borrowed(config.changes(backbone)):
            lent = replace(context, progress=follow, checkpoint=state)
            entry.function(photos, config, lent, generator(0, name))
            parts = (backbone.unet, backbone.text_encoder)
            return {key: value.clone() for part in parts for key, value in part.state_dict().items()}

    whole, undisturbed = run(0, None), losses.copy()
    losses.clear()
    for limit in (3, 5):
        with pytest.raises(Killed):
            run(limit, tmp_path)
    again = run(0, tmp_path)
    assert whole.keys() == again.keys()
    assert all(torch.equal(value, again[key]) for key, value in whole.items())
    assert losses[-2:] == undisturbed[-2:], "the running loss goes on too"
    assert losses[:3] == undisturbed[:3]
