from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from redcloak.api import Subject
from redcloak.config import AuditConfig
from redcloak.errors import UserError
from redcloak.parsing import validate
from redcloak.prompts import NONE, Decoupling, check_words
from redcloak.suite import Suite

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


@pytest.mark.parametrize(("train", "deny"), [*product([True, False], repeat=2)])
def test_naming_and_denying_are_two_switches(train: bool, deny: bool):
    policy = Decoupling(train_suffix=train, class_suffix=deny)
    assert (", bhj" in policy.instance(PERSON)) == train
    assert ("without bhj" in policy.prior(PERSON)) == deny


def test_a_class_prompt_that_was_not_asked_about_follows_the_instance_prompt():
    for train in (True, False):
        assert Decoupling(train_suffix=train) == Decoupling(train_suffix=train, class_suffix=None)
        assert Decoupling(train_suffix=train).prior(PERSON) == Decoupling(train_suffix=train, class_suffix=train).prior(
            PERSON
        )


@pytest.mark.parametrize("tokens", ["shared", "per_image", "clusters"])
def test_new_words_stand_where_the_noise_token_would(tokens: str):
    policy = Decoupling(tokens=tokens, count=2)
    assert policy.words == ("<noise-1>", "<noise-2>")
    assert policy.sampling("a dog") == "a dog, without <noise-1> <noise-2>"
    assert policy.instance(PERSON, "<noise-7-1>") == "a photo of sks person, <noise-7-1>"
    assert policy.prior(PERSON, "<noise-7-1>") == "a photo of person, without <noise-7-1>"
    assert policy.training == Decoupling().training | {"tokens": tokens, "count": 2}
    assert Decoupling(**policy.model_dump(mode="json")) == policy


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"count": 2}, "count = 2 counts new words; set tokens"),
        ({"tokens": "shared", "train_suffix": False}, "new words train where the instance prompt has them"),
        ({"tokens": "shared", "count": 3}, "Input should be 1, 2 or 4"),
    ],
)
def test_combinations_that_say_nothing_are_refused(wrong: dict[str, object], said: str):
    with pytest.raises(UserError, match=said):
        validate(AuditConfig, {"photos": "x", "decoupling": wrong}, "here")


def test_quality_tags_come_before_the_denial():
    assert Decoupling(quality_tags=True).sampling("a dog") == (
        "a dog, clear, high resolution, high quality, noise-free, without bhj noisy pattern"
    )
    assert Decoupling(quality_tags=True, infer_suffix=False, variant="paper").sampling("a dog") == (
        "a dog, high quality, highres"
    )


def test_training_depends_on_what_is_said_in_training_and_on_nothing_else():
    """The keys of results that were made before the later switches, and one training for all ways to sample."""
    before = {"train_suffix": True, "noise_token": "bhj noisy pattern", "variant": "released"}
    assert Decoupling().training == before
    assert (
        Decoupling(class_suffix=True, infer_suffix=False, negative_prompt=False, quality_tags=True).training == before
    )
    assert Decoupling(train_suffix=False).training is None
    only_denied = Decoupling(train_suffix=False, class_suffix=True).training
    assert only_denied == before | {"train_suffix": False, "class_suffix": True}
    assert Decoupling(class_suffix=False).training == before | {"class_suffix": False}
    for policy in (only_denied, before):
        assert Decoupling(**policy).training == policy


def test_a_record_holds_the_later_switches_only_where_they_say_something():
    assert set(Decoupling().model_dump()) == {
        "train_suffix", "infer_suffix", "negative_prompt", "noise_token", "variant",
    }  # fmt: skip
    for more in ({"class_suffix": False}, {"quality_tags": True}):
        policy = Decoupling(**more)
        assert more.items() <= policy.model_dump().items()
        assert Decoupling(**policy.model_dump(mode="json")) == policy


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


TEMPLATE = "{subject} on a very long walk" + " very" * 6


class Letters:
    """A tokenizer of known letters only, as small vocabularies are."""

    unk_token, unk_token_id, model_max_length = "<unk>", 0, 60

    def __call__(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        known = "abcdefghijklmnopqrstuvwxyz"
        return SimpleNamespace(input_ids=[known.index(c) + 1 if c in known else 0 for c in text if c not in " ,"])


def test_words_that_a_tokenizer_cannot_say_are_refused():
    check_words(Letters(), PERSON, Decoupling(), [PROMPT])
    said = {
        "decoupling.noise_token = '雑音': the tokenizer does not know it": (PERSON, Decoupling(noise_token="雑音"), []),
        "subject.identifier = 'é': the tokenizer does not know it": (Subject("dog", "é"), Decoupling(), []),
        "decoupling.noise_token = ',': the tokenizer does not know it": (PERSON, Decoupling(noise_token=","), []),
        "holds the identifier 'sks'": (PERSON, Decoupling(noise_token="sks noise"), []),
        "has 73 tokens and the text encoder reads 60": (PERSON, Decoupling(), ["x" * 51]),
    }
    said |= {"very very, bhj noisy pattern' has 63 tokens": (PERSON, Decoupling(), [], [TEMPLATE])}
    check_words(Letters(), PERSON, NONE, [], [TEMPLATE])  # it is the suffix that is too much
    for words, given in said.items():
        with pytest.raises(UserError) as caught:
            check_words(Letters(), *given)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_small_suite_s_end_of_text_is_not_taken_for_unknown(suite: Suite):
    """In CLIP's vocabulary the unknown token is the end of text, with which every prompt ends."""
    assert suite.tokenizer.unk_token == suite.tokenizer.eos_token
    check_words(suite.tokenizer, PERSON, Decoupling(quality_tags=True), [PROMPT])
    check_words(suite.tokenizer, PERSON, Decoupling(tokens="shared", count=4), ["a " * 17])
    with pytest.raises(UserError, match="has 33 tokens"):
        check_words(suite.tokenizer, PERSON, Decoupling(tokens="shared", count=4), ["a " * 25])


@pytest.mark.parametrize(
    "wrong", [{"noise_token": ""}, {"noise_token": "  "}, {"variant": "mine"}, {"train_sufix": False}]
)
def test_a_slip_is_an_error(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        Decoupling(**wrong)
