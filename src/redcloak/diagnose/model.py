"""A diagnosis as data: everything ``diagnose.html`` says, as ``diagnose.json`` stores it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isnan

import numpy as np
from pydantic import Field
from torch import Tensor

from redcloak.api import Score
from redcloak.config import Strict
from redcloak.diagnose.groups import CLEAN, PROTECTED, Group, Role, linf
from redcloak.diagnose.misalignment import difference
from redcloak.report.model import StoredEstimate
from redcloak.report.table import Row
from redcloak.stats import Estimate, cluster_bootstrap

SCHEMA_VERSION = 1
Measures = dict[str, dict[str, dict[str, Tensor]]]  # CLIP -> group -> score -> a value for each photo


class GroupInfo(Strict):
    """One group of photos without the photos."""

    name: str
    role: Role
    linf: int = Field(ge=0, description="largest change of the clean photos in 8-bit steps")


class Line(Strict):
    """One number: a score of one group, and what it changed by from the clean photos, photo by photo."""

    clip: str
    group: str
    score: str
    mean: StoredEstimate
    change: StoredEstimate | None = Field(None, description="the group minus the clean photos; none for the latter")
    n: int = Field(ge=0, description="photos with a defined value")


class Map(Strict):
    """One projection of one CLIP's embeddings: group -> a point for each photo."""

    clip: str
    kind: str
    points: dict[str, tuple[tuple[float, float], ...]]


class Heat(Strict):
    """How much of a UNet's cross-attention one word of a prompt gets, mean over layers, heads, steps and pictures."""

    model: str
    prompt: str
    word: str
    share: float = Field(ge=0, le=1, description="of all the prompt's positions, the start token among them")
    map: tuple[tuple[float, ...], ...] = Field(description="the same by place: rows of the picture")


class Extract(Strict):
    """What a personalized model draws when asked for one concept: score -> mean with its interval over pictures."""

    model: str
    name: str
    prompt: str
    scores: dict[str, StoredEstimate]
    n: int = Field(ge=1)


class CurvePoint(Strict):
    """One arm's pictures after some training steps: score -> mean with its interval over pictures."""

    arm: str
    step: int = Field(ge=0)
    scores: dict[str, StoredEstimate]


class Diagnosis(Strict):
    """A finished diagnosis. Photos are not kept here: the page embeds them."""

    schema_version: int = SCHEMA_VERSION
    redcloak_version: str
    created: str = Field("", description="UTC, ISO 8601")
    subject: str
    suite: str
    prompt: str
    concepts: dict[str, tuple[str, ...]]
    resolution: int
    members: int = Field(ge=0, description="pictures of the class that distances are counted from")
    command: str = ""
    groups: tuple[GroupInfo, ...]
    scores: dict[str, Score]
    lines: tuple[Line, ...]
    maps: tuple[Map, ...] = ()
    extracts: tuple[Extract, ...] = ()
    attention: tuple[Heat, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    notes: tuple[str, ...] = Field((), description="what could not be computed, and why")

    def line(self, clip: str, group: str, score: str) -> Line | None:
        """One number, None where it was not measured."""
        wanted = (clip, group, score)
        return next((line for line in self.lines if (line.clip, line.group, line.score) == wanted), None)

    @property
    def clips(self) -> tuple[str, ...]:
        """The CLIPs that looked."""
        return tuple(dict.fromkeys(line.clip for line in self.lines))

    def to_json(self) -> str:
        """The text of ``diagnose.json``."""
        return self.model_dump_json(indent=2) + "\n"


def lines(measures: Measures, subject: str) -> tuple[Line, ...]:
    """Every score of every group, with its paired change from the clean photos of the same CLIP."""
    return tuple(
        _line(clip, group, score, values, None if group == CLEAN else of[CLEAN].get(score), subject)
        for clip, of in measures.items()
        for group, scores in of.items()
        for score, values in scores.items()
    )


def _line(clip: str, group: str, score: str, values: Tensor, clean: Tensor | None, subject: str) -> Line:
    found = values.double().numpy()
    labels = [subject] * len(found)
    change = None if clean is None else difference(found, clean.double().numpy(), labels)
    mean = cluster_bootstrap(found, np.asarray(labels))
    return Line(clip=clip, group=group, score=score, mean=mean, change=change, n=int(np.isfinite(found).sum()))


def rows(measures: Measures, subject: str, prompt: str, names: Iterable[str], seed: int = 0) -> list[Row]:
    """The long table of scores: an arm for each group, a metric ``CLIP/score`` for each measure."""
    photos = list(names)
    return [
        Row(subject, group, seed, "photos", prompt, photo, f"{clip}/{score}", float(value))
        for clip, of in measures.items()
        for group, scores in of.items()
        for score, values in scores.items()
        for photo, value in zip(photos, values, strict=True)
    ]


def infos(found: Iterable[Group]) -> tuple[GroupInfo, ...]:
    """The groups without their photos."""
    kept = list(found)
    return tuple(GroupInfo(name=one.name, role=one.role, linf=linf(one.images, kept[0].images)) for one in kept)


def findings(diagnosis: Diagnosis) -> list[str]:
    """The share of the class in the eyes of the first CLIP: what the protection did, the controls, the autoencoder."""
    first, after = _effects(diagnosis, "class_mass"), _effects(diagnosis, "class_mass_decoded")
    if not first:
        return ["Nothing could be measured."]
    protected = first.pop(PROTECTED)
    said = [f"{_said(protected)}: share of the class {_signed(protected)}, as {diagnosis.clips[0]}'s CLIP sees it."]
    if first:
        said.append(f"Of the same size: {_listed(first)}.")
    return said + ([f"After the autoencoder: {_listed(after)}."] if after else [])


def _effects(diagnosis: Diagnosis, score: str) -> dict[str, Estimate]:
    """The change of one score in the protected photos and the controls, in the eyes of the first CLIP."""
    shown = [one.name for one in diagnosis.groups if one.role in ("protected", "control")]
    found = {name: diagnosis.line(diagnosis.clips[0], name, score) for name in shown}
    return {name: line.change for name, line in found.items() if line and line.change}


def _listed(effects: Mapping[str, Estimate]) -> str:
    return ", ".join(f"{name} {_signed(change)}" for name, change in effects.items())


def _said(change: Estimate) -> str:
    if change.high < 0:
        return "The protection moves the photos from their class towards noise"
    if change.low > 0:
        return "The protection moves the photos away from noise, towards their class"
    return f"Whether the protection moves the photos towards noise is undecided (n = {change.clusters})"


def table(diagnosis: Diagnosis, clip: str, scores: Sequence[str]) -> list[tuple[str, ...]]:
    """Cells for a person: a row for each group, a column for each score of one CLIP; the change in brackets."""
    shown = [name for name in scores if diagnosis.line(clip, PROTECTED, name)]
    heads = [diagnosis.scores[name].title.removesuffix(", decoded") for name in shown]
    body = [(one.name, *(_cell(diagnosis.line(clip, one.name, name)) for name in shown)) for one in diagnosis.groups]
    return [("group", *heads), *body]


def extracted(diagnosis: Diagnosis) -> list[tuple[str, ...]]:
    """Cells for a person: a row for each concept of each model."""
    names = list(dict.fromkeys(name for one in diagnosis.extracts for name in one.scores))
    body = [(one.model, one.prompt, *(_value(one.scores, name) for name in names)) for one in diagnosis.extracts]
    return [("model", "prompt", *map(_words, names)), *body]


def trained(diagnosis: Diagnosis) -> list[tuple[str, ...]]:
    """Cells for a person: a row for each point of the curve."""
    names = list(dict.fromkeys(name for one in diagnosis.curve for name in one.scores))
    body = [(one.arm, str(one.step), *(_value(one.scores, name) for name in names)) for one in diagnosis.curve]
    return [("arm", "step", *map(_words, names)), *body]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(scores: Mapping[str, Estimate], name: str) -> str:
    found = scores.get(name)
    if found is None or isnan(found.estimate):
        return "-"
    return f"{found.estimate:.3f}" + ("" if isnan(found.low) else f" [{found.low:.3f}, {found.high:.3f}]")


def _cell(line: Line | None) -> str:
    if line is None or isnan(line.mean.estimate):
        return "-"
    return f"{line.mean.estimate:.3f}" + (f" ({_signed(line.change)})" if line.change else "")


def _signed(change: Estimate) -> str:
    """``-0.120 [-0.200, -0.050]``, without the brackets where there is no interval."""
    ends = "" if isnan(change.low) else f" [{change.low:+.3f}, {change.high:+.3f}]"
    return f"{change.estimate:+.3f}{ends}"
