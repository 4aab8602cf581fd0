"""Several subjects' LoRAs in one pass, against the same one by one with peft."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import checksum
from torch import Tensor, nn

from redcloak.api import Context, Subject
from redcloak.backbone import Backbone
from redcloak.errors import UserError
from redcloak.personalize.lora import Config, lora, projections
from redcloak.prompts import Decoupling
from redcloak.rng import generator
from redcloak.training.together import Additions, Job, together, worn


@pytest.fixture
def jobs(photos: Tensor, context: Context) -> list[Job]:
    """Three subjects of their own words and photos, one of them trained with decoupling."""
    return fresh(photos, context)


def fresh(photos: Tensor, context: Context) -> list[Job]:
    people = [
        (photos, replace(context, decoupling=Decoupling())),
        (1 - photos[:2], replace(context, subject=Subject("woman", "sks"))),
        (photos.flip(-1), context),
    ]
    return [Job(images, each, generator(row, "lora")) for row, (images, each) in enumerate(people)]


def weights(backbone: Backbone) -> dict[str, Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in projections(backbone, text_encoder=False).items()}


@pytest.mark.parametrize("settings", [{}, {"prior_weight": 0.0, "batch": 1, "clip": 0.05}])
def test_each_ends_where_it_would_have_ended_alone(
    settings: dict[str, float], photos: Tensor, context: Context, backbone: Backbone
):
    config = Config(**({"steps": 5, "lr": 1e-2, "batch": 2, "rank": 3} | settings))
    before, base = checksum(backbone), weights(backbone)
    found = together(fresh(photos, context), config)
    assert checksum(backbone) == before
    for job, factors in zip(fresh(photos, context), found, strict=True):
        with backbone.borrowed(config.changes(backbone)):
            lora(job.images, config, job.context, job.generator)
            alone = weights(backbone)
        with worn(backbone, factors):
            batched = weights(backbone)
        assert checksum(backbone) == before
        change = sum((alone[name] - base[name]).norm() ** 2 for name in base) ** 0.5
        far = sum((alone[name] - batched[name]).norm() ** 2 for name in base) ** 0.5
        assert change > 0.05
        assert far < 2e-3 * change


def test_additions_lie_where_their_layer_does():
    layer = Additions(nn.Linear(4, 3, device="meta"), torch.zeros(2, 1, 4))
    assert {value.device.type for value in layer.parameters()} == {"meta"}


def test_a_subject_does_not_know_its_companions(photos: Tensor, context: Context, backbone: Backbone):
    config = Config(steps=3, lr=1e-2, batch=1)
    first, *_ = together(fresh(photos, context), config)
    (alone,) = together(fresh(photos, context)[:1], config)
    assert all(torch.allclose(first[name][1], alone[name][1], atol=1e-4) for name in first)


def test_what_is_worn_is_saved_as_plain_diffusers(jobs: list[Job], backbone: Backbone, tmp_path: Path):
    first, _, last = together(jobs, Config(steps=3, lr=1e-1))
    drawn = []
    for name, factors in (("a", first), ("b", last)):
        with worn(backbone, factors):
            backbone.save(tmp_path / name)
            expected = weights(backbone)
        saved = weights(Backbone.load(tmp_path / name))
        assert all(torch.allclose(saved[key], value, atol=1e-3) for key, value in expected.items())
        drawn.append(expected)
    assert not all(torch.equal(drawn[0][key], drawn[1][key]) for key in drawn[0])


def test_progress_is_each_subject_s_own(photos: Tensor, context: Context):
    told: list[list[float]] = [[], [], []]
    jobs = [
        replace(job, context=replace(job.context, progress=lambda d, t, v, kept=kept: kept.append(v["loss"])))
        for job, kept in zip(fresh(photos, context), told, strict=True)
    ]
    together(jobs, Config(steps=4, report_every=2, lr=1e-3))
    assert [len(losses) for losses in told] == [2, 2, 2]
    assert len({losses[-1] for losses in told}) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_encoder": True}, "together: text_encoder=true is for one subject at a time"),
        ({"optimizer": "adam8bit"}, "together: optimizer=adam8bit is for one"),
        ({"templates": ("{subject}", "a {subject}")}, "together: several templates is for one"),
    ],
)
def test_what_cannot_be_batched_is_refused(settings: dict[str, object], message: str, jobs: list[Job]):
    with pytest.raises(UserError, match=message):
        together(jobs, Config(**settings))
    with pytest.raises(UserError, match="no subjects"):
        together([], Config())
