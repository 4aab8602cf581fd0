from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from redcloak.config import AuditConfig, Choice, Strict, later, transport
from redcloak.errors import UserError
from redcloak.parsing import parse_settings, read_yaml, validate
from redcloak.registry import load

WRITTEN = """
photos: drawn:3
protection: {name: aspl, rounds: 2, lr: 1.0e-4}
budget: 8
purifiers: [gaussian, "restore,upscale", [{name: jpeg, quality: 60}, gaussian]]
decoupling: {variant: released, infer_suffix: false}
subject: {class_noun: dog}
seeds: [4, 5, 6]
device: cuda
workers: 7
"""


def written(text: str, path: Path) -> AuditConfig:
    path.write_text(text)
    return validate(AuditConfig, read_yaml(path), "audit")


def test_what_a_person_writes_is_understood(tmp_path: Path):
    config = written(WRITTEN, tmp_path / "audit.yaml")
    assert config.protection == Choice(name="aspl", settings={"rounds": 2, "lr": 1e-4})
    assert config.purifiers == (
        (Choice(name="gaussian"),),
        (Choice(name="restore"), Choice(name="upscale")),
        (Choice(name="jpeg", settings={"quality": 60}), Choice(name="gaussian")),
    )
    assert config.subject.words.instance_prompt == "a photo of sks dog"
    assert not config.decoupling.infer_suffix
    assert config.seeds == (4, 5, 6)


@pytest.mark.parametrize("text", [WRITTEN, "photos: /somewhere"])
def test_a_resolved_configuration_reads_back_as_itself(text: str, tmp_path: Path):
    config = written(text, tmp_path / "audit.yaml")
    again = written(yaml.safe_dump(config.model_dump(mode="json")), tmp_path / "resolved.yaml")
    assert again == config
    assert again.key_fields() == config.key_fields()
    assert json.loads(json.dumps(config.key_fields())) == config.key_fields(), "the key is made of JSON values"


def test_photos_are_one_subject_or_a_list(tmp_path: Path):
    one, several = written("photos: [drawn:1]", tmp_path / "1.yaml"), written("photos: [a, b]", tmp_path / "2.yaml")
    assert one == AuditConfig(photos="drawn:1")
    assert (one.folder, one.folders) == ("drawn:1", ("drawn:1",))
    assert [each.folder for each in several.one_by_one()] == ["a", "b"]
    assert written(yaml.safe_dump(several.model_dump(mode="json")), tmp_path / "3.yaml") == several
    with pytest.raises(UserError, match=r"photos = \['a', 'b'\]: name one subject"):
        assert several.folder


def test_where_it_runs_is_no_part_of_the_key():
    here = AuditConfig(photos="drawn:1")
    where = {"device": "cuda", "memory": "low", "workers": 9, "executor": "ray", "threads": 3}
    there = here.model_copy(update={**where, "protocol": "paper 1"})
    assert here.key_fields() == there.key_fields()
    assert here.key_fields().keys() == AuditConfig.model_fields.keys() - {*where, "protocol"}
    assert here.key_fields() != here.model_copy(update={"budget": 12.0}).key_fields()
    assert "report_every" not in load("personalize", "dreambooth").configure().key_fields()


def test_transport_is_left_out_of_nested_configurations_too():
    class Inner(Strict):
        steps: int = 3
        chunk: int = transport(16)

    class Outer(Strict):
        inner: Inner = Inner()

    assert Outer().key_fields() == {"inner": {"steps": 3}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"photos": "x", "bugdet": 8}, "audit: unknown setting 'bugdet': did you mean 'budget'?"),
        ({"photos": "x", "budget": 99}, "audit: budget = 99: Input should be less than or equal to 64."),
        ({"photos": "x", "seeds": []}, "audit: seeds = []: Tuple should have at least 1 item after validation, not 0."),
        ({"photos": "x", "subject": {"class_noun": ""}}, "audit: subject.class_noun = '': String should have"),
    ],
)
def test_a_mistake_is_one_line_with_the_field_the_value_and_the_fix(values: dict[str, object], message: str):
    with pytest.raises(UserError) as caught:
        validate(AuditConfig, values, "audit")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_later_field_leaves_the_keys_of_earlier_results():
    class Before(Strict):
        steps: int = 3

    class Now(Before):
        file: Path | None = later(None)

    assert Now().key_fields() == Before().key_fields() == {"steps": 3}
    assert Now(file="a").key_fields() == {"steps": 3, "file": "a"}


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match="audit: photos is missing; there is no default for it"):
        validate(AuditConfig, {}, "audit")


def test_a_method_rejects_a_setting_that_it_does_not_have():
    with pytest.raises(UserError, match="protection 'aspl': unknown setting 'round': did you mean 'rounds'"):
        load("protect", "aspl").configure(round=3)


@pytest.mark.parametrize(
    ("pairs", "settings"),
    [
        (["steps=10", "lr=1.0e-4"], {"steps": 10, "lr": 1e-4}),
        (["prior-weight=0", "variant=paper"], {"prior_weight": 0, "variant": "paper"}),
        (["decay=false", "target=null"], {"decay": False, "target": None}),
        (["a=b=c", 'prompt=""'], {"a": "b=c", "prompt": ""}),
        (["prompt=", "other= "], {"prompt": "", "other": ""}),
    ],
)
def test_settings_of_the_command_line(pairs: list[str], settings: dict[str, object]):
    assert parse_settings(pairs) == settings


@pytest.mark.parametrize("pair", ["steps", "=3", ""])
def test_a_setting_without_name_or_value(pair: str):
    with pytest.raises(UserError, match="write it as name=value"):
        parse_settings([pair])


@pytest.mark.parametrize("text", ["- a\n- b", "just words", "", "a: [1", "\x00"])
def test_a_file_that_is_no_configuration(text: str, tmp_path: Path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=r"c\.yaml") as caught:
        read_yaml(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match="cannot read the configuration"):
        read_yaml(tmp_path / "no.yaml")
