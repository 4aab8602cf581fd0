"""One audit: every arm of one subject and one protection, from photos to a report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from redcloak import __version__, protocols, registry
from redcloak.api import Budget, Kind, Score
from redcloak.arms import PRIORS, Arm, Builder
from redcloak.checks import Run, run_checks
from redcloak.config import AuditConfig, Choice
from redcloak.errors import UserError
from redcloak.execute import Event, run
from redcloak.images import check_writable, list_images, read_image, to_tensor
from redcloak.matrix import Graph, Node, Plan
from redcloak.matrix import plan as plan_graph
from redcloak.places import open_store
from redcloak.prompts import check_words
from redcloak.report.build import ArmPictures, Drawn, build
from redcloak.report.model import MethodUsed, Report, summarise
from redcloak.report.table import Table, write_whole
from redcloak.report.verdict import verdict
from redcloak.store import Artifact, Store
from redcloak.subjects import Photos, load_subject, pair
from redcloak.suite import Suite
from redcloak.suite import load as load_suite

Used = tuple[Kind, str, tuple[str, ...]]
RESEARCH_ONLY = ("non-commercial", "research use", "agpl", "gpl")


@dataclass
class Audit:
    """An audit that is set up but not run: its arms, its graph and its store."""

    config: AuditConfig
    out: Path
    photos: Photos
    suite: Suite
    arms: list[Arm]
    graph: Graph
    store: Store

    @classmethod
    def prepare(cls, config: AuditConfig, out: Path, store: str | Path | None = None) -> Audit:
        """Check everything that can be checked before work is spent: photos, methods, settings, the output folder.

        Raises:
            UserError: whatever is wrong, in one line.
        """
        suite = load_suite(config.suite, config.machine)
        photos = load_subject(config.already_protected or config.photos, suite.spec.resolution)
        if config.already_protected:
            pair(Path(config.already_protected), Path(config.photos), suite.spec.resolution)
        _check_prompts(config)
        protocols.changed(config)
        builder = Builder(config, suite, photos)
        arms = builder.arms()
        suite.check("backbone", *(slot for kind, choice in chosen(config) for slot in _needs(suite, kind, choice)))
        check_words(suite.tokenizer, config.subject.words, config.decoupling, builder.prompts)
        check_writable(out)
        return cls(config, out, photos, suite, arms, builder.graph, open_store(store or out / "store"))

    def targets(self) -> list[Node]:
        """The nodes that the report is read from."""
        return list(dict.fromkeys(node for arm in self.arms for node in arm.targets))

    def plan(self) -> Plan:
        """What a run would compute, what is cached, and how long it should take."""
        return plan_graph(self.graph, self.store, PRIORS, self.targets(), self.config.workers)

    def run(self, on_event: Callable[[Event], None] = lambda event: None) -> Report:
        """Compute what is missing and write ``report.html``, ``report.json``, ``scores.parquet``, ``audit.yaml``."""
        resolved = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
        strangers = self._strangers()
        write_whole(self.out / "audit.yaml", resolved.encode())
        run(
            self.graph,
            self.store,
            "redcloak.stages:run_stage",
            self.targets(),
            self.config.workers,
            on_event,
            executor=self.config.executor,
            threads=self.config.threads,
        )
        scores = Table.of(row for arm in self.arms for row in arm.rows(self.photos.name, self._artifact))
        report = self._report(scores, strangers)
        build(report, {arm.summary.name: self._pictures(arm) for arm in self.arms}, scores, self.out)
        return report

    def _artifact(self, node: Node) -> Artifact:
        return self.store.read(node.key, node.label)

    def _pictures(self, arm: Arm) -> ArmPictures:
        drawn = []
        for seed, node in arm.generated:
            folder = self._artifact(node).path
            prompts = json.loads((folder / "prompts.json").read_text())
            drawn += [Drawn(read_image(p), prompts[p.name], seed) for p in list_images(folder / "images")]
        photos, clean, trained = (self._images(node) for node in (arm.photos, arm.clean, arm.trained_on))
        return ArmPictures(
            photos=photos,
            clean=clean if arm.photos != arm.clean else (),
            purified=trained if arm.trained_on != arm.photos else (),
            generated=drawn,
        )

    def _images(self, node: Node | None) -> Sequence[Any]:
        return [read_image(path) for path in list_images(self._artifact(node).path / "images")] if node else []

    def _summary(self, arm: Arm) -> Any:
        """The arm with what only the run can tell: seconds, and how much its purifiers changed."""
        nodes = {node.key: node for node in (*arm.models, *(node for _, node in (*arm.generated, *arm.scores)))}
        manifests = [found.manifest for key in nodes if (found := self.store.find(key))]
        change = None
        if arm.trained_on and arm.trained_on.stage == "purify":
            change = self._artifact(arm.trained_on).manifest.notes["largest_change"]
        share = None
        if arm.photos and arm.photos.stage == "protect":
            share = self._artifact(arm.photos).manifest.notes.get("lens_gradient")
        seconds = round(sum(manifest.wall_seconds for manifest in manifests), 1)
        return arm.summary.model_copy(
            update={"purifier_steps": change, "lens_gradient": share, "wall_seconds": seconds}
        )

    def _strangers(self) -> str | None:
        """What is wrong with the faces of the photos, where any score looks at faces; nothing is trained before."""
        needed = [slot for kind, choice in chosen(self.config) for slot in _needs(self.suite, kind, choice)]
        if "faces" not in needed:
            return None
        from redcloak.detection import one_person

        photos = self.photos
        pictures = (photos.train, photos.reference) if photos.held_out else (photos.train,)
        names = photos.train_names + (photos.reference_names if photos.held_out else ())
        return one_person(to_tensor([picture for split in pictures for picture in split]), names, self.suite.faces)

    def _report(self, scores: Table, strangers: str | None) -> Report:
        arms = tuple(self._summary(arm) for arm in self.arms)
        metrics = self._metrics()
        surrogate = self._surrogate()
        finished = Run(
            scores=scores,
            arms=arms,
            budget=Budget.of_255(self.config.budget),
            metrics=metrics,
            held_out=self.photos.held_out,
            references=len(self.photos.reference),
            surrogate=surrogate,
            victim=self.suite.name,
            strangers=strangers,
        )
        manifests = [found.manifest for node in self.graph.order() if (found := self.store.find(node.key))]
        seconds: dict[str, float] = {}
        for manifest in manifests:
            seconds[manifest.stage] = round(seconds.get(manifest.stage, 0.0) + manifest.wall_seconds, 1)
        return Report(
            redcloak_version=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            subject=self.photos.name,
            verdict=verdict(scores, arms),
            command=command(self.config, self.out),
            protocol=protocols.told(self.config),
            config=self.config.model_dump(mode="json"),
            arms=arms,
            metrics=metrics,
            rows=summarise(scores, arms, metrics),
            flags=run_checks(finished),
            methods=self._methods(),
            wall_seconds=seconds,
            libraries=manifests[0].libraries if manifests else {},
        )

    def _surrogate(self) -> str | None:
        if self.config.already_protected:
            return None
        entry = registry.load("protect", self.config.protection.name)
        return self.suite.name if "backbone" in entry.method.needs else None

    def _metrics(self) -> dict[str, Score]:
        names = (*self.config.metrics, "fidelity")
        return {key: score for name in names for key, score in registry.load("metrics", name).method.scores.items()}

    def _methods(self) -> tuple[MethodUsed, ...]:
        from redcloak.recognisers import LICENSES

        methods = []
        for kind, name, faces in used(self.config, self.suite):
            method = registry.load(kind, name).method
            behind = [f"{each}: {LICENSES[each]}" for each in faces]
            binding = " ".join((method.license.split("(")[0], *behind)).lower()  # a bracket tells of others' code
            free = not any(word in binding for word in RESEARCH_ONLY)
            methods.append(MethodUsed(
                kind=registry.KINDS[kind], name=name, title=method.title, cite=method.cite,
                license="; ".join((method.license, *behind)), free=free,
            ))  # fmt: skip
        models = [
            MethodUsed(
                kind="model",
                name=slot,
                title=f"{self.suite.spec.title}: {slot}",
                cite="the suite's card",
                license=licence,
            )
            for slot, licence in self.suite.spec.licenses.items()
        ]
        return (*methods, *models)


def audit(
    config: AuditConfig,
    out: Path,
    store: str | Path | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Report:
    """Run an audit and write its report into ``out``; the same call after a kill goes on where it was.

    Raises:
        UserError: whatever is wrong with the photos, the settings or the output folder.
    """
    return Audit.prepare(config, out, store).run(on_event)


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
    entry = registry.load(kind, choice.name)
    resolved = entry.configure(**suite.settings(choice.name, choice.settings))
    yield kind, choice.name, entry.faces(resolved, suite.spec.faces)
    for of, part in resolved.parts():
        yield from _with_parts(suite, of, part)


def _needs(suite: Suite, kind: Kind, choice: Choice) -> tuple[str, ...]:
    entry = registry.load(kind, choice.name)
    return entry.needs(entry.configure(**suite.settings(choice.name, choice.settings)))


def command(config: AuditConfig, out: Path) -> str:
    """What to type to make the same report again."""
    return shlex.join(["redcloak", "audit", "--config", str(out / "audit.yaml"), "--out", str(out)])


def _check_prompts(config: AuditConfig) -> None:
    for prompt in config.prompts:
        try:
            prompt.format(subject="x")
        except (KeyError, IndexError, ValueError):
            raise UserError(f"prompts: {prompt!r} is not a prompt; the only placeholder is {{subject}}.") from None
        if config.subject.identifier not in prompt.format(subject=config.subject.words.name).split():
            raise UserError(
                f"prompts: {prompt!r} does not name the subject, so anybody would do; put {{subject}} in it."
            )
    if len(set(config.seeds)) != len(config.seeds):
        raise UserError(f"seeds: {list(config.seeds)} names a seed twice.")
