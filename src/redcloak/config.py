"""Everything a person writes or a file stores: typed, frozen, unknown keys forbidden, one place for defaults.

A field that cannot change a result (batch size, device, workers) is declared with :func:`transport`; those
fields, and only those, are left out of the cache key; and those of :func:`later` while they have their default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from redcloak.api import Budget, Kind, Machine, Norm, Policy, Precision, Subject
from redcloak.errors import UserError, unknown
from redcloak.prompts import Decoupling

if TYPE_CHECKING:
    from redcloak.crafting.rules import Plan


def transport(default: Any, **kwargs: Any) -> Any:
    """A field that cannot change a result: shown in the configuration, absent from the cache key."""
    return Field(default, json_schema_extra={"key": False}, **kwargs)


def later(default: Any, **kwargs: Any) -> Any:
    """A field that was added when results were in stores already: at its default, absent from the cache key."""
    return Field(default, json_schema_extra={"key": "given"}, **kwargs)


class Strict(BaseModel):
    """Base of every configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def key_fields(self) -> dict[str, Any]:
        """The fields that can change a result, resolved, as JSON values."""
        result = {}
        for name, info in type(self).model_fields.items():
            extra, value = info.json_schema_extra, getattr(self, name)
            kind = extra.get("key") if isinstance(extra, dict) else True
            if kind is False or (kind == "given" and value == info.default):
                continue
            result[name] = value.key_fields() if isinstance(value, Strict) else _json(self, name)
        return result


class MethodConfig(Strict):
    """Base of the ``Config`` that each method file declares: the method's own knobs, with units."""

    def parts(self) -> tuple[tuple[Kind, Choice], ...]:
        """The other methods that this one uses, whose versions and models its result depends on."""
        return ()

    def slots(self) -> tuple[str, ...] | None:
        """The suite's models that are used when it is configured so; None: all that the method says it needs."""
        return None

    def faces(self, own: str) -> tuple[str, ...]:
        """The face back ends that it uses where it needs faces; ``own`` is the suite's."""
        return (own,)

    def suites(self) -> tuple[str, ...]:
        """The other suites whose models its result depends on."""
        return ()

    def models(self) -> dict[str, str]:
        """What identifies the weights that come neither from a suite nor from a file among the settings.

        Raises:
            UserError: they are not on this machine.
        """
        return {}

    def check(self) -> None:
        """See that the weights and packages that the method brings along are here, without loading them.

        Raises:
            UserError: one is not, and how to get it.
        """


class ProtectConfig(MethodConfig):
    """Base of every protection's configuration: the budget, in 8-bit steps of the saved PNG."""

    budget: float = Field(11.0, ge=1, le=64, description="radius in 8-bit steps (/255 of the saved PNG)")
    norm: Norm = Field("linf", description="linf: the largest change of a value; l2: the root mean square over a photo")

    @property
    def ball(self) -> Budget:
        """The budget in [0, 1] pixel units."""
        return Budget.of_255(self.budget, self.norm)


class AscentConfig(ProtectConfig):
    """Base of the protections that climb a loss: steps, their size, and the rule."""

    steps: int = Field(100, ge=1, description="ascent steps")
    step_size: float = Field(1.0, gt=0, description="step in 8-bit steps (/255)")
    rule: Literal["sign", "normalised", "l2", "apgd"] = Field(
        "sign", description="direction of a step; with norm l2 use l2; apgd also halves its steps by itself"
    )

    @property
    def plan(self) -> Plan:
        """The plan of the ascent in [0, 1] pixel units."""
        from redcloak.crafting.rules import Plan

        return Plan(self.ball, self.step_size / 255, self.steps, self.rule)


class Choice(Strict):
    """A method by name with its settings; a bare name in YAML is a choice without settings."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any) -> Any:
        """``aspl`` or ``{name: aspl, steps: 10}`` -> the fields of a choice."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "settings" not in value:
            return {
                "name": value.get("name", ""),
                "settings": {k: v for k, v in value.items() if k != "name"},
            }
        return value

    @property
    def spoken(self) -> str:
        """``jpeg`` or ``jpeg(quality=50)``."""
        settings = ", ".join(f"{name}={_short(value)}" for name, value in self.settings.items())
        return f"{self.name}({settings})" if settings else self.name


def budget_of(protection: Choice, steps: float) -> Budget:
    """What a protection may change where the budget is ``steps``; the norm is a setting of its own.

    Raises:
        UserError: a budget stands among the protection's settings, too.
    """
    if "budget" in protection.settings:
        raise UserError(
            f"protection {protection.spoken}: its budget is not a setting here, because the control of random noise "
            "has the same; write budget (in a matrix budgets) beside the protection."
        )
    return Budget.of_255(steps, protection.settings.get("norm", "linf"))


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and "name" in value:
        return str(value["name"])
    return "+".join(map(_short, value)) if isinstance(value, list | tuple) else str(value)


def _chain(value: Any) -> Any:
    """``restore,upscale`` or a list of choices -> a list of choices."""
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, Mapping):
        value = [value]
    return [Choice.parse(item) for item in value]


MethodChoice = Annotated[Choice, BeforeValidator(Choice.parse)]
Chain = Annotated[tuple[Choice, ...], BeforeValidator(_chain)]


class SubjectConfig(Strict):
    """The words that name the subject in prompts."""

    class_noun: str = Field("person", min_length=1, description="what the subject is: person, dog, backpack")
    identifier: str = Field("sks", min_length=1, description="the rare token that training binds to it")

    @property
    def words(self) -> Subject:
        """The same as the value that methods take."""
        return Subject(self.class_noun, self.identifier)


class AuditConfig(Strict):
    """One audit: every arm of one protection. ``redcloak audit --config`` reads it back."""

    photos: str | tuple[str, ...] = Field(
        description="a folder of photos of one subject, or drawn:N; a list of them for several subjects"
    )
    already_protected: str | None = Field(
        None, description="the clean photos, where `photos` were protected by another tool"
    )
    protocol: str | None = transport(None, description="the shipped protocol that the rest came from, NAME@VERSION")
    suite: str = Field("tiny", description="tiny, sd15, sd21, or a folder: a suite's, or any diffusers model")
    subject: SubjectConfig = SubjectConfig()
    protection: MethodChoice = Choice(name="aspl")
    budget: float = Field(11.0, ge=1, le=64, description="radius in 8-bit steps (/255), L_inf but for norm=l2")
    purifiers: tuple[Chain, ...] = (
        (Choice(name="gaussian"),),
        (Choice(name="jpeg"),),
        (Choice(name="codesr"),),
    )
    red_team: Chain = Field((Choice(name="codesr"),), description="the purifier chain of the red-team arm")
    trainer: MethodChoice = Choice(name="dreambooth")
    decoupling: Decoupling = Decoupling()
    metrics: tuple[str, ...] = ("identity", "quality", "alignment")
    metric_settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="metric -> its settings, as in {dino: {weights: FOLDER}}"
    )
    prompts: tuple[str, ...] = Field(
        ("a photo of {subject}", "a smiling photo of {subject}"),
        description="evaluation prompts; {subject} becomes e.g. 'sks person'",
    )
    images_per_prompt: int = Field(8, ge=1, le=64)
    sampling_steps: int = Field(25, ge=1, le=999, description="DDIM steps")
    guidance: float | None = Field(
        None, ge=1, le=30, description="classifier-free guidance scale; by default the suite's"
    )
    class_images: int = Field(32, ge=0, le=1000, description="prior-preservation pictures, made once and shared")
    seeds: tuple[int, ...] = Field((0, 1), min_length=1)
    common_seeds: bool = Field(False, description="a seed is the same noise for every subject; else each has its own")
    precision: Precision = Field("fp32", description="fp32, bf16 or fp16: what the backbone computes in")
    device: str = transport("cpu", description="cpu, cuda, cuda:1, mps")
    memory: Policy = transport("auto", description="auto, or low: slower, in less memory, with the same result")
    workers: int = transport(2, ge=1, le=64, description="stages that run at the same time")
    threads: int | None = transport(None, ge=1, le=1024, description="threads of a worker; by default cores / workers")
    executor: str = transport("local", description="local, ray, or ray:ADDRESS of a cluster; see docs/cluster.md")

    @field_validator("photos", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        """A list of one is that one, so that both are the same configuration."""
        if isinstance(value, str):
            return value
        if (
            not isinstance(value, list | tuple)
            or not value
            or not all(isinstance(each, str) and each for each in value)
        ):
            raise UserError(f"photos = {value!r}: write a folder or drawn:N, or a list of them.")
        return value[0] if len(value) == 1 else value

    @field_validator("metric_settings")
    @classmethod
    def _known(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        from redcloak import registry

        for name in value:
            if name not in registry.names("metrics"):
                raise unknown("metric", name, registry.names("metrics"))
        return value

    def metric(self, name: str) -> Choice:
        """A metric with its settings."""
        return Choice(name=name, settings=self.metric_settings.get(name, {}))

    @property
    def folders(self) -> tuple[str, ...]:
        """The photos of each subject: a folder, or drawn:N."""
        return (self.photos,) if isinstance(self.photos, str) else self.photos

    @property
    def folder(self) -> str:
        """The photos of the only subject.

        Raises:
            UserError: there are several.
        """
        if not isinstance(self.photos, str):
            raise UserError(f"photos = {list(self.photos)}: name one subject; only `redcloak audit` takes several.")
        return self.photos

    @property
    def clean_folder(self) -> str:
        """The clean photos of the only subject, whoever protected them."""
        return self.already_protected or self.folder

    def one_by_one(self) -> list[AuditConfig]:
        """The same configuration for each subject alone."""
        return [self.model_copy(update={"photos": each}) for each in self.folders]

    @property
    def machine(self) -> Machine:
        """Where and how the backbone computes."""
        return Machine(self.device, self.precision, self.memory)


def _json(model: BaseModel, name: str) -> Any:
    return model.model_dump(mode="json", include={name})[name]
