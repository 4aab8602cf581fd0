from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from redcloak import protocols, registry
from redcloak.api import Kind
from redcloak.bench.config import is_study
from redcloak.bench.config import load as load_matrix
from redcloak.bench.config import names as matrices
from redcloak.bench.config import yaml_values as written
from redcloak.bench.grid import Matrix
from redcloak.config import AuditConfig, Choice
from redcloak.configured import needs
from redcloak.diagnose import study
from redcloak.errors import UserError
from redcloak.suite import SLOTS, Suite, load


def configured(name: str, **more: object) -> AuditConfig:
    return AuditConfig(**({"photos": "drawn:0"} | protocols.settings(name) | more))


@pytest.mark.parametrize("name", protocols.names())
def test_every_setting_of_a_protocol_is_one(name: str):
    config = configured(name)
    assert protocols.changed(config) == ()
    assert protocols.told(config) == f"{name}, version {protocols.read(name)['version']}"
    suite = load(config.suite)
    choices = [("personalize", config.trainer), *(("purify", one) for chain in config.purifiers for one in chain)]
    for kind, choice in [*choices, *(("purify", one) for one in config.red_team)]:
        assert registry.load(kind, choice.name).configure(**suite.settings(choice.name, choice.settings))
    for metric in config.metrics:
        assert metric in registry.names("metrics")


def test_the_paper_s_numbers():
    """As the released scripts and the appendix have them; see the file for where each is from."""
    paper = configured("paper")
    trainer = registry.load("personalize", paper.trainer.name).configure(**paper.trainer.settings)
    assert (trainer.steps, trainer.lr, trainer.batch, trainer.prior_weight) == (1000, 5e-7, 1, 1.0)
    assert (paper.class_images, paper.sampling_steps, paper.guidance, paper.images_per_prompt) == (200, 100, 7.5, 16)
    assert (paper.suite, paper.budget, paper.precision) == ("sd21", 11, "bf16")
    assert paper.decoupling.instance(paper.subject.words) == "a photo of sks person, bhj noisy pattern"
    assert [choice.name for choice in paper.red_team] == ["codeformer", "sd_x4"]


def slots_of(suite: Suite) -> set[str]:
    """What stands in a suite; faces are found in every one."""
    return {"faces", *(slot for slot in SLOTS if getattr(suite.spec, slot))}


def methods_of(name: str) -> Iterator[tuple[Kind, Choice]]:
    """Every method of a shipped matrix or study, the baselines' among them."""
    yield "protect", Choice(name="random_noise")
    if is_study(name):
        config = study.load(name)
        yield from (("protect", choice) for choice in study.perturbations(config).values())
        return
    matrix = load_matrix(name, **({} if "subjects" in written(name) else {"subjects": ["drawn:0"]}))
    yield from (("protect", option.chain[0]) for option in matrix.protections)
    yield from (("purify", step) for option in matrix.purifiers for step in option.chain)
    yield from (("personalize", option.chain[0]) for option in matrix.trainers)
    yield from (("metrics", matrix.audit(matrix.subjects[0]).metric(metric)) for metric in matrix.metrics)


@pytest.mark.parametrize("name", matrices())
def test_the_methods_of_a_shipped_matrix_find_their_models_in_its_suite(name: str):
    suite = load(written(name)["suite"])
    asked = {choice.spoken: set(needs(suite, [(kind, choice)])) for kind, choice in methods_of(name)}
    lacking = {spoken: slots - slots_of(suite) for spoken, slots in asked.items()}
    assert {spoken: slots for spoken, slots in lacking.items() if slots} == {}


@pytest.mark.parametrize("name", protocols.names())
def test_the_methods_of_a_protocol_find_their_models_in_its_suite(name: str):
    config = configured(name)
    chains = [step for chain in (*config.purifiers, config.red_team) for step in chain]
    choices = [("personalize", config.trainer), *(("purify", step) for step in chains)]
    choices += [("metrics", config.metric(metric)) for metric in config.metrics]
    suite = load(config.suite)
    assert set(needs(suite, choices)) <= slots_of(suite)


def test_the_paper_s_matrix_has_the_numbers_of_the_paper_s_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    audit, matrix = configured("paper"), load_matrix("paper", subjects=["drawn:0", "drawn:1"])
    same = (
        "suite",
        "prompts",
        "images_per_prompt",
        "sampling_steps",
        "guidance",
        "class_images",
        "metrics",
        "precision",
    )
    of_one = matrix.audit(matrix.subjects[0])
    for field in (*same, "trainer", "budget", "seeds"):
        assert getattr(of_one, field) == getattr(audit, field), field
    chains = [tuple(step.name for step in option.chain) for option in matrix.purifiers]
    assert chains == [(), *(tuple(s.name for s in chain) for chain in audit.purifiers), ("codeformer", "sd_x4")]
    for mine, theirs in zip(matrix.purifiers[-1].chain, audit.red_team, strict=True):
        assert {k: v for k, v in mine.settings.items() if k != "weights"} == theirs.settings
    with pytest.raises(UserError, match="paper: it names no subjects; give --subject FOLDER"):
        load_matrix("paper")
    dropping = matrix.purifiers[3].chain[0], audit.purifiers[2][0]
    assert dropping[0] == dropping[1]
    assert dropping[0].settings["mode"] == "small"
    (tmp_path / "lpips.safetensors").write_bytes(b"LPIPS")
    monkeypatch.chdir(tmp_path)
    small = load_matrix("paper", subjects=["drawn:0", "drawn:1"], suite="tiny", purifiers=["none", "jpeg"])
    assert len(Matrix.of(small).arms) == 2 * (1 + (2 + 7) * 4)  # untuned; clean, noise and seven protections, four ways


def test_the_small_protocol_is_what_an_audit_does_anyway():
    """Its file says what the defaults are, so that a change of one is a change of version."""
    tiny, plain = configured("tiny"), AuditConfig(photos="drawn:0")
    suite = load("tiny")
    for field in set(AuditConfig.model_fields) - {"protocol", "trainer", "red_team", "guidance"}:
        assert getattr(tiny, field) == getattr(plain, field), field
    assert tiny.guidance == suite.spec.guidance
    for kind, one, other in (
        ("personalize", tiny.trainer, plain.trainer),
        ("purify", tiny.red_team[0], plain.red_team[0]),
    ):
        entry = registry.load(kind, one.name)
        made = [entry.configure(**suite.settings(choice.name, choice.settings)) for choice in (one, other)]
        assert made[0] == made[1]


def test_what_departs_from_a_protocol_is_named():
    assert protocols.told(configured("tiny", seeds=[7], guidance=2)) == "tiny, version 2; changed: guidance, seeds"
    free = configured("tiny", photos="x", protection="mist", device="cuda", workers=5)
    assert protocols.changed(free) == ()


def test_without_a_protocol_nothing_is_said():
    assert protocols.told(AuditConfig(photos="x")) == ""


def test_a_version_that_is_not_ours_is_refused():
    for wrong in ("paper@1", "paper@4", "paper"):
        with pytest.raises(UserError, match="this redcloak ships version 3"):
            protocols.changed(configured("paper", protocol=wrong))
    with pytest.raises(UserError, match="unknown protocol 'papers': did you mean 'paper'"):
        protocols.read("papers")
