from __future__ import annotations

from itertools import product

import pytest
from pydantic import ValidationError

from redcloak.api import Subject
from redcloak.prompts import NONE, Decoupling

PERSON = Subject()
PROMPT = "a smiling photo of sks person"
VARIANTS = {
    "paper": ("a photo of sks person with bhj noisy pattern", "noisy, abstract, pattern, low quality"),
    "released": ("a photo of sks person, bhj noisy pattern", "noisy, lowres, artifact, pattern"),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("train", "infer", "negative"), [*product([True, False], repeat=3)])
def test_each_switch_does_its_own_part(variant: str, train: bool, infer: bool, negative: bool):
    policy = Decoupling(train_suffix=train, infer_suffix=infer, negative_prompt=negative, variant=variant)
    instance, denied = VARIANTS[variant]
    assert policy.instance(PERSON) == (instance if train else "a photo of sks person")
    assert policy.prior(PERSON) == ("a photo of person, without bhj noisy pattern" if train else "a photo of person")
    assert policy.sampling(PROMPT) == (PROMPT + ", without bhj noisy pattern" if infer else PROMPT)
    assert policy.negative == (denied if negative else "")


def test_the_default_is_what_was_released_with_everything_on():
    assert Decoupling() == Decoupling(train_suffix=True, infer_suffix=True, negative_prompt=True, variant="released")


def test_none_leaves_every_prompt_alone():
    assert NONE.instance(PERSON) == PERSON.instance_prompt == "a photo of sks person"
    assert NONE.prior(PERSON) == PERSON.class_prompt == "a photo of person"
    assert NONE.sampling(PROMPT) == PROMPT
    assert NONE.negative == ""


def test_the_words_can_be_chosen():
    policy, dog = Decoupling(noise_token="zzz grain"), Subject("dog", "xyz")
    assert policy.instance(dog) == "a photo of xyz dog, zzz grain"
    assert policy.prior(dog) == "a photo of dog, without zzz grain"
    assert policy.sampling("a dog") == "a dog, without zzz grain"


@pytest.mark.parametrize("wrong", [{"noise_token": ""}, {"variant": "mine"}, {"train_sufix": False}])
def test_a_slip_is_an_error(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        Decoupling(**wrong)
