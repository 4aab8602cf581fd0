"""The axes of a matrix: what a person may write for a value, and the label that filters, tables and pages call it by.

A label is a method's name with the settings it was given, or the ``label`` beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from redcloak.config import Chain, Choice, Strict, SubjectConfig
from redcloak.prompts import NONE, Decoupling

AXES = ("subject", "protection", "budget", "purifier", "trainer", "decoupling", "prompts", "seed")
NOTHING = "none"  # the label of no purifier at all
PLAIN, CDL = "plain", "cdl"


class Option(Strict):
    """One value of an axis of methods: a label, and the methods that are applied one after another."""

    label: str = Field(min_length=1)
    chain: tuple[Choice, ...]


class Person(Strict):
    """One subject: photos, and the words that name it."""

    label: str = Field(min_length=1)
    photos: str = Field(min_length=1)
    words: SubjectConfig = SubjectConfig()


class Words(Strict):
    """One value of the decoupling axis: the prompts of contrastive decoupling, or plain ones."""

    label: str = Field(min_length=1)
    decoupling: Decoupling

    @property
    def plain(self) -> bool:
        """Whether there is no decoupling at all."""
        return self.decoupling == NONE


class PromptSet(Strict):
    """One value of the prompts axis: evaluation prompts that are drawn and judged together."""

    label: str = Field(min_length=1)
    prompts: tuple[str, ...] = Field(min_length=1)


def _option(value: Any) -> Any:
    """``aspl``, ``restore,upscale``, ``{name: aspl, rounds: 5, label: short}`` or ``{label: ..., chain: [...]}``."""
    if isinstance(value, Option):
        return value
    label = value.get("label") if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        value = value["chain"] if "chain" in value else {key: each for key, each in value.items() if key != "label"}
    chain = _Chain.model_validate({"chain": value}).chain
    if [step.name for step in chain] == [NOTHING]:
        chain = ()
    return {"label": label or "+".join(step.spoken for step in chain) or NOTHING, "chain": chain}


class _Chain(Strict):
    chain: Chain


def _person(value: Any) -> Any:
    if isinstance(value, str):
        return {"label": value, "photos": value}
    if isinstance(value, Mapping) and "words" not in value:
        words = {key: each for key, each in value.items() if key not in ("label", "photos")}
        return {"label": value.get("label", value.get("photos", "")), "photos": value.get("photos", ""), "words": words}
    return value


def _decoupling(value: Any) -> Any:
    if isinstance(value, bool):
        return {"label": CDL, "decoupling": Decoupling()} if value else {"label": PLAIN, "decoupling": NONE}
    if isinstance(value, Mapping) and "decoupling" not in value:
        words = {key: each for key, each in value.items() if key != "label"}
        return {"label": value.get("label", CDL), "decoupling": words}
    return value


def _prompts(value: Any) -> Any:
    """One list of prompts, or several by name."""
    if isinstance(value, Mapping):
        return [{"label": label, "prompts": prompts} for label, prompts in value.items()]
    if isinstance(value, Sequence) and value and all(isinstance(each, str) for each in value):
        return [{"label": "prompts", "prompts": value}]
    return value


def axis_of(value: Any) -> Any:
    """An axis has at least one value; a single one need not be a list."""
    if value is None or (isinstance(value, Sequence | Mapping) and not len(value)):
        raise PydanticCustomError("axis", "the axis has no values; give at least one")
    return [value] if isinstance(value, str | int | float | Mapping) else value


def _filter(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {axis: [str(each) for each in (v if isinstance(v, list | tuple) else [v])] for axis, v in value.items()}


Methods = Annotated[tuple[Annotated[Option, BeforeValidator(_option)], ...], BeforeValidator(axis_of)]
Subjects = Annotated[tuple[Annotated[Person, BeforeValidator(_person)], ...], BeforeValidator(axis_of)]
Treatments = Annotated[tuple[Annotated[Words, BeforeValidator(_decoupling)], ...], BeforeValidator(axis_of)]
Prompts = Annotated[tuple[PromptSet, ...], BeforeValidator(axis_of), BeforeValidator(_prompts)]
Filters = tuple[Annotated[dict[str, tuple[str, ...]], BeforeValidator(_filter)], ...]
