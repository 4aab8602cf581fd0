"""What a person writes of a matrix: its axes, what to leave out, and what all arms have in common.

A matrix is a YAML file or the name of a protocol that comes with redcloak.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field

from redcloak import registry
from redcloak.api import Policy, Precision
from redcloak.bench.axes import (
    AXES,
    CDL,
    PLAIN,
    Filters,
    Methods,
    Option,
    Person,
    Prompts,
    PromptSet,
    Subjects,
    Treatments,
    Words,
    axis_of,
)
from redcloak.config import AuditConfig, Choice, Strict, budget_of, transport
from redcloak.errors import UserError, unknown
from redcloak.parsing import read_yaml, validate
from redcloak.prompts import NONE, Decoupling
from redcloak.report.names import PRIMARY

Steps = Annotated[float, Field(ge=1, le=64)]  # of 255
PROTOCOLS = Path(__file__).parents[1] / "protocols" / "bench"


class MatrixConfig(Strict):
    """A matrix: every combination of its axes, but for what the filters leave out; baselines are always there."""

    protocol: str = Field("own", min_length=1, description="the name that reports print")
    version: int = Field(1, ge=1, description="of the protocol; raise it whenever its numbers would change")
    title: str = ""
    suite: str = "tiny"
    subjects: Subjects
    protections: Methods
    budgets: Annotated[tuple[Steps, ...], BeforeValidator(axis_of)] = Field(
        (11.0,), description="/255, L_inf but for norm=l2"
    )
    purifiers: Methods = Field(description="chains; `none` is no purifier, and is always there as a baseline")
    trainers: Methods = (Option(label="dreambooth", chain=(Choice(name="dreambooth"),)),)
    decoupling: Treatments = Field(
        (Words(label=PLAIN, decoupling=NONE), Words(label=CDL, decoupling=Decoupling())),
        description="true, false, or the settings of contrastive decoupling with a label",
    )
    prompts: Prompts = (PromptSet(label="prompts", prompts=("a photo of {subject}", "a smiling photo of {subject}")),)
    seeds: Annotated[tuple[int, ...], BeforeValidator(axis_of)] = (0, 1)
    common_seeds: bool = Field(False, description="a seed is the same noise for every subject; else each has its own")
    only: Filters = Field((), description="keep only arms that match one of these, axis: label or pattern")
    exclude: Filters = Field((), description="leave out arms that match one of these")
    baselines: Literal["treated", "plain"] = Field(
        "treated", description="treated: clean photos and random noise go through every purifier and CDL, too"
    )
    metrics: tuple[str, ...] = ("identity", "quality", "alignment")
    metric_settings: dict[str, dict[str, Any]] = Field(default_factory=dict, description="metric -> its settings")
    images_per_prompt: int = Field(8, ge=1, le=64)
    sampling_steps: int = Field(25, ge=1, le=999)
    guidance: float | None = Field(None, ge=1, le=30)
    class_images: int = Field(32, ge=0, le=1000)
    precision: Precision = "fp32"
    device: str = transport("cpu")
    memory: Policy = transport("auto")
    workers: int = transport(2, ge=1, le=4096)

    @property
    def name(self) -> str:
        """The protocol and its version, as reports print it."""
        return f"{self.protocol} v{self.version}"

    def labels(self, axis: str) -> list[str]:
        """The labels of an axis, in order."""
        if axis == "budget":
            return [f"{budget:g}" for budget in self.budgets]
        if axis == "seed":
            return [str(seed) for seed in self.seeds]
        return [value.label for value in getattr(self, axis if axis in ("decoupling", "prompts") else f"{axis}s")]

    @property
    def ranked_by(self) -> str:
        """The score of the leaderboard: identity, or without it the first of the metrics in which more is better.

        Raises:
            UserError: there is none.
        """
        found = registry.scores(self.metrics)
        if PRIMARY in found:
            return PRIMARY
        best = next((key for key, score in found.items() if score.higher_is_better), None)
        if best is None:
            said = f"metrics = {list(self.metrics)}: a leaderboard needs a score in which more is better"
            raise UserError(f"{said}; add identity or clip_i.")
        return best

    def check(self, where: str) -> None:
        """See that labels and filters make sense.

        Raises:
            UserError: a value stands twice in an axis, a filter names what is not there, or a prompt is none.
        """
        for axis in AXES:
            twice = [label for label, count in Counter(self.labels(axis)).items() if count > 1]
            if twice:
                raise UserError(f"{where}: {axis} {twice[0]!r} stands twice; drop one, or give one a label of its own.")
        for option in (*self.protections, *self.trainers):
            if len(option.chain) != 1:
                raise UserError(f"{where}: {option.label!r}: a protection or a trainer is one method, not a chain.")
        for option in self.protections:
            budget_of(option.chain[0], self.budgets[0])
        _ = self.ranked_by
        for prompt in (prompt for each in self.prompts for prompt in each.prompts):
            try:
                named = "|" in prompt.format(subject="|")
            except (KeyError, IndexError, ValueError):
                raise UserError(f"{where}: {prompt!r} is no prompt; the only placeholder is {{subject}}.") from None
            if not named:
                raise UserError(f"{where}: {prompt!r} does not name the subject; put {{subject}} in it.")
        for each in (*self.only, *self.exclude):
            for axis in each:
                if axis not in AXES:
                    raise unknown("axis in a filter", axis, AXES)

    def audit(self, person: Person) -> AuditConfig:
        """The configuration of one subject, at the first value of every other axis."""
        same = (
            "suite",
            "metrics",
            "metric_settings",
            "images_per_prompt",
            "sampling_steps",
            "guidance",
            "class_images",
            "seeds",
            "common_seeds",
        )
        place = ("precision", "device", "memory")
        return AuditConfig(
            photos=person.photos,
            subject=person.words,
            protection=Choice(name="none"),
            budget=self.budgets[0],
            purifiers=(),
            trainer=self.trainers[0].chain[0],
            prompts=self.prompts[0].prompts,
            workers=min(self.workers, 64),
            **{name: getattr(self, name) for name in (*same, *place)},
        )

    def text(self) -> str:
        """The matrix as YAML with every default resolved; it reads back as the same."""
        values = self.model_dump(mode="json")
        values["prompts"] = {each.label: list(each.prompts) for each in self.prompts}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def names() -> list[str]:
    """The protocols that come with redcloak."""
    return sorted(path.stem for path in PROTOCOLS.glob("*.yaml"))


def load(name: str, **flags: Any) -> MatrixConfig:
    """A matrix by the name of a protocol or from a YAML file; flags that are not None replace its fields.

    Raises:
        UserError: no such protocol or file, or whatever is wrong in it, in one line.
    """
    values = yaml_values(name)
    if "study" in values:
        raise UserError(f"{name}: it is a study, not a matrix; its verbs are bench plan and bench run.")
    values |= {key: value for key, value in flags.items() if value is not None}
    if "subjects" not in values:
        raise UserError(f"{name}: it names no subjects; give --subject FOLDER, once for each.")
    config = validate(MatrixConfig, values, str(name))
    config.check(str(name))
    return config


def yaml_values(name: str) -> dict[str, Any]:
    """The fields of a protocol or a YAML file, with those of what it extends; unchecked.

    Raises:
        UserError: no such protocol or file, or it is no mapping.
    """
    return _inherited(find(name), ())


def is_study(name: str) -> bool:
    """Whether it is a study (:mod:`redcloak.diagnose.study`), and no matrix."""
    return "study" in yaml_values(name)


def protocol_of(name: str) -> str:
    """What a matrix or a study calls its protocol."""
    return str(yaml_values(name).get("protocol", "own"))


def find(name: str) -> Path:
    """The file of a protocol or a matrix."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = name in names() or (path.parent.name == "protocols" and path.suffix == ".yaml" and path.stem in names())
    if shipped:
        return PROTOCOLS / f"{path.stem}.yaml"
    raise unknown("protocol", name, names(), "Or give a YAML file.")


def _inherited(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The fields of a file, over those of the matrix that it ``extends``."""
    if path.resolve() in seen:
        chain = " -> ".join(each.name for each in (*seen, path))
        raise UserError(f"{path}: extends goes round in a circle: {chain}.")
    values = read_yaml(path)
    if _circular(values, ()):
        raise UserError(f"{path}: a value holds itself (an anchor is used inside of what it names).")
    base = values.pop("extends", None)
    if base is None:
        return values
    beside = path.parent / str(base)
    found = find(str(beside if beside.is_file() else base))
    return _inherited(found, (*seen, path.resolve())) | values


def _circular(value: Any, inside: tuple[int, ...]) -> bool:
    if not isinstance(value, dict | list):
        return False
    if id(value) in inside:
        return True
    children = value.values() if isinstance(value, dict) else value
    return any(_circular(child, (*inside, id(value))) for child in children)
