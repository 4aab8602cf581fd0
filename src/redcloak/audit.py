"""One audit: every arm of each subject under one protection, from photos to a report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from redcloak import __version__, protocols, registry
from redcloak.arms import Arm, Builder
from redcloak.checks import run_checks
from redcloak.config import AuditConfig, budget_of
from redcloak.configured import needs, templates
from redcloak.errors import UserError
from redcloak.finished import Run
from redcloak.images import check_writable, list_images, read_image
from redcloak.nodes import STAGES
from redcloak.prompts import check_named, check_words
from redcloak.report.build import ArmPictures, Drawn, build
from redcloak.report.model import Report, summarise
from redcloak.report.table import Table, write_whole
from redcloak.report.verdict import verdict
from redcloak.runtime.execute import Event, run
from redcloak.runtime.matrix import Graph, Node
from redcloak.runtime.places import open_store
from redcloak.runtime.plan import Plan
from redcloak.runtime.plan import plan as plan_graph
from redcloak.runtime.store import Artifact, Store
from redcloak.subjects import Photos, load_subjects, pair
from redcloak.suite import Suite
from redcloak.suite import load as load_suite
from redcloak.used import chosen, methods


@dataclass
class Audit:
    """An audit that is set up but not run: its arms, its graph and its store.

    ``builders`` and ``arms_of`` are by subject, as the tables name it; all subjects have the same arms.
    """

    config: AuditConfig
    out: Path
    suite: Suite
    builders: dict[str, Builder]
    arms_of: dict[str, list[Arm]]
    graph: Graph
    store: Store

    @classmethod
    def prepare(cls, config: AuditConfig, out: Path, store: str | Path | None = None) -> Audit:
        """Check everything that can be checked before work is spent: photos, methods, settings, the output folder.

        Raises:
            UserError: whatever is wrong, in one line.
        """
        suite = load_suite(config.suite, config.machine)
        photos = _load(config, suite.spec.resolution)
        _check_prompts(config)
        budget_of(config.protection, config.budget)
        protocols.changed(config)
        graph = Graph()
        each = zip(_names(photos), config.one_by_one(), photos.values(), strict=True)
        builders = {name: Builder(alone, suite, mine, graph) for name, alone, mine in each}
        arms = {name: builder.arms() for name, builder in builders.items()}
        suite.check("backbone", *needs(suite, chosen(config)))
        prompts = next(iter(builders.values())).prompts
        said = templates(suite, config.trainer)
        check_words(suite.tokenizer, config.subject.words, config.decoupling, prompts, said)
        check_writable(out)
        return cls(config, out, suite, builders, arms, graph, open_store(store or out / "store"))

    @property
    def arms(self) -> list[Arm]:
        """Every arm of every subject."""
        return [arm for arms in self.arms_of.values() for arm in arms]

    def targets(self) -> list[Node]:
        """The nodes that the report is read from."""
        return list(dict.fromkeys(node for arm in self.arms for node in arm.targets))

    def plan(self, beside: Path | None = None) -> Plan:
        """What a run would compute, what is cached, and what it should take; ``beside`` is where the store will be."""
        model = next(iter(self.builders.values())).weights
        where = beside or self.store.root
        return plan_graph(self.graph, self.store, self.config.workers, where, self.targets(), model=model)

    def run(self, on_event: Callable[[Event], None] = lambda event: None) -> Report:
        """Compute what is missing and write ``report.html``, ``report.json``, ``scores.parquet``, ``audit.yaml``."""
        resolved = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
        strangers = self._strangers()
        write_whole(self.out / "audit.yaml", resolved.encode())
        with self.store.at_work():
            run(
                self.graph,
                self.store,
                STAGES,
                self.targets(),
                self.config.workers,
                on_event,
                executor=self.config.executor,
                threads=self.config.threads,
            )
            return self._written(strangers)

    def _written(self, strangers: str | None) -> Report:
        """The report of what is there."""
        scores = Table.of(
            row for name, arms in self.arms_of.items() for arm in arms for row in arm.rows(name, self._artifact)
        )
        report = self._report(scores, strangers)
        first, arms = next(iter(self.arms_of.items()))  # the pictures of all would make the page too heavy to open
        pictures = {arm.summary.name: self._pictures(arm) for arm in arms}
        build(report, pictures, scores, self.out, first if len(self.arms_of) > 1 else "")
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

    def _summary(self, arms: Sequence[Arm]) -> Any:
        """One arm of all subjects with what only the run can tell: seconds, and what its purifiers changed or left."""
        nodes = [node for arm in arms for node in (*arm.models, *(node for _, node in (*arm.generated, *arm.scores)))]
        manifests = [
            found.manifest for key in dict.fromkeys(node.key for node in nodes) if (found := self.store.find(key))
        ]
        changes = self._notes((arm.trained_on for arm in arms), "purify", "largest_change")
        shares = self._notes((arm.photos for arm in arms), "protect", "lens_gradient")
        faceless = int(sum(self._notes((arm.trained_on for arm in arms), "purify", "pictures_without_face")))
        left = f" A restorer found no face in {faceless} of its photos, and left them as they were." if faceless else ""
        return arms[0].summary.model_copy(
            update={
                "words": f"{arms[0].summary.words}{left}".strip(),
                "purifier_steps": max(changes, default=None),
                "lens_gradient": min(shares, default=None),
                "wall_seconds": round(sum(manifest.wall_seconds for manifest in manifests), 1),
            }
        )

    def _notes(self, nodes: Iterable[Node | None], stage: str, name: str) -> list[Any]:
        """What the nodes of one stage noted under a name, where they noted it."""
        notes = [self._artifact(node).manifest.notes for node in nodes if node and node.stage == stage]
        return [each[name] for each in notes if each.get(name) is not None]

    def _strangers(self) -> str | None:
        """What is wrong with the faces of the photos, where any score looks at faces; nothing is trained before."""
        if "faces" not in needs(self.suite, chosen(self.config)):
            return None
        from redcloak.detection import strangers

        faces = self.suite.faces
        found = {name: strangers(each.photos, faces) for name, each in self.builders.items()}
        several = len(found) > 1
        return " ".join(f"{name}: {said}" if several else said for name, said in found.items() if said) or None

    def _report(self, scores: Table, strangers: str | None) -> Report:
        arms = tuple(map(self._summary, zip(*self.arms_of.values(), strict=True)))
        names = list(self.builders)
        metrics = registry.scores((*self.config.metrics, "fidelity"))
        surrogate = self._surrogate()
        finished = Run(
            scores=scores,
            arms=arms,
            budget=budget_of(self.config.protection, self.config.budget),
            metrics=metrics,
            held_out=all(builder.photos.held_out for builder in self.builders.values()),
            references=min(len(builder.photos.reference) for builder in self.builders.values()),
            surrogate=surrogate,
            victim=self.suite.name,
            strangers=strangers,
            common_seeds=self.config.common_seeds,
        )
        manifests = [found.manifest for node in self.graph.order() if (found := self.store.find(node.key))]
        seconds: dict[str, float] = {}
        for manifest in manifests:
            seconds[manifest.stage] = round(seconds.get(manifest.stage, 0.0) + manifest.wall_seconds, 1)
        return Report(
            redcloak_version=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            subject=names[0] if len(names) == 1 else f"{len(names)} subjects",
            verdict=verdict(scores, arms),
            command=command(self.config, self.out),
            protocol=protocols.told(self.config),
            config=self.config.model_dump(mode="json"),
            arms=arms,
            metrics=metrics,
            rows=summarise(scores, arms, metrics),
            flags=run_checks(finished),
            methods=methods(self.config, self.suite),
            wall_seconds=seconds,
            libraries=manifests[0].libraries if manifests else {},
        )

    def _surrogate(self) -> str | None:
        if self.config.already_protected:
            return None
        entry = registry.load("protect", self.config.protection.name)
        return self.suite.name if "backbone" in entry.method.needs else None


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


def command(config: AuditConfig, out: Path) -> str:
    """What to type to make the same report again."""
    return shlex.join(["redcloak", "audit", "--config", str(out / "audit.yaml"), "--out", str(out)])


def _load(config: AuditConfig, size: int) -> dict[str, Photos]:
    """The clean photos of each subject, by where they are."""
    if not config.already_protected:
        return load_subjects(config.folders, size, "photos")
    if len(config.folders) > 1:
        raise UserError(
            f"already_protected = {config.already_protected!r}: it goes with one folder of photos, not with "
            f"{len(config.folders)}; audit each by itself."
        )
    photos = load_subjects([config.already_protected], size, "already_protected")
    pair(Path(config.already_protected), Path(config.folder), size)
    return photos


def _names(photos: Mapping[str, Photos]) -> list[str]:
    """What tables call each subject: its folder's name, or the whole path where others share that name."""
    names = [each.name for each in photos.values()]
    return [path if names.count(name) > 1 else name for path, name in zip(photos, names, strict=True)]


def _check_prompts(config: AuditConfig) -> None:
    for prompt in config.prompts:
        try:
            prompt.format(subject="x")
        except (KeyError, IndexError, ValueError):
            raise UserError(f"prompts: {prompt!r} is not a prompt; the only placeholder is {{subject}}.") from None
        check_named(prompt.format(subject=config.subject.words.name), config.subject.identifier)
    if len(set(config.seeds)) != len(config.seeds):
        raise UserError(f"seeds: {list(config.seeds)} names a seed twice.")
