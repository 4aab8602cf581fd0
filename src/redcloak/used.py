"""Which methods an audit uses, with every part of one and every model behind it, and under what licences."""

from __future__ import annotations

from collections.abc import Iterator

from redcloak import registry
from redcloak.api import Kind
from redcloak.config import AuditConfig, Choice
from redcloak.configured import configured
from redcloak.report.model import MethodUsed
from redcloak.suite import Suite

Used = tuple[Kind, str, tuple[str, ...]]
RESEARCH_ONLY = ("non-commercial", "research use", "agpl", "gpl")


def methods(config: AuditConfig, suite: Suite) -> tuple[MethodUsed, ...]:
    """Every method and every model of an audit with its source, its licence, and whether it is free for every use."""
    from redcloak.models.recognisers import LICENSES

    found = []
    for kind, name, faces in used(config, suite):
        method = registry.load(kind, name).method
        behind = [f"{each}: {LICENSES[each]}" for each in faces]
        binding = " ".join((method.license.split("(")[0], *behind)).lower()  # a bracket tells of others' code
        free = not any(word in binding for word in RESEARCH_ONLY)
        found.append(MethodUsed(
            kind=registry.KINDS[kind], name=name, title=method.title, cite=method.cite,
            license="; ".join((method.license, *behind)), free=free,
        ))  # fmt: skip
    models = [
        MethodUsed(
            kind="model",
            name=slot,
            title=f"{suite.spec.title}: {slot}",
            cite="the suite's card",
            license=licence,
        )
        for slot, licence in suite.spec.licenses.items()
    ]
    return (*found, *models)


def chosen(config: AuditConfig) -> list[tuple[Kind, Choice]]:
    """Every method of an audit with its settings."""
    protections = [] if config.already_protected else [config.protection]
    purifiers = [step for chain in (*config.purifiers, config.red_team) for step in chain]
    kinds: list[tuple[Kind, list[Choice]]] = [
        ("protect", [*protections, Choice(name="random_noise")]),
        ("purify", purifiers),
        ("personalize", [config.trainer]),
        ("metrics", [config.metric(name) for name in (*config.metrics, "fidelity")]),
    ]
    return [(kind, choice) for kind, choices in kinds for choice in choices]


def used(config: AuditConfig, suite: Suite) -> tuple[Used, ...]:
    """Every method of an audit and every part of one, once: (kind, name, the face back ends behind it)."""
    found = (each for kind, choice in chosen(config) for each in _with_parts(suite, kind, choice))
    return tuple(dict.fromkeys(found))


def _with_parts(suite: Suite, kind: Kind, choice: Choice) -> Iterator[Used]:
    entry, resolved = configured(suite, kind, choice)
    yield kind, choice.name, entry.faces(resolved, suite.spec.faces)
    for of, part in resolved.parts():
        yield from _with_parts(suite, of, part)
