"""The stages of an audit as nodes of a graph: photos, protections, purifiers, models, pictures, scores.

Methods are asked for their settings and versions without being imported: building a graph needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from redcloak import registry
from redcloak.api import Kind, Needs
from redcloak.config import AuditConfig, Choice, MethodConfig
from redcloak.images import file_digest, folder_digest
from redcloak.needs import backbone_bytes, takes
from redcloak.prompts import Decoupling
from redcloak.rng import derive
from redcloak.runtime.manifest import Canonical
from redcloak.runtime.matrix import Graph, Node
from redcloak.subjects import Photos
from redcloak.suite import Suite
from redcloak.suite import load as load_suite
from redcloak.suite import names as suites

STAGES = "redcloak.stages:run_stage"  # what a worker imports, and nobody else


class Nodes:
    """The nodes of one subject's audit; what was added before is the same node."""

    def __init__(
        self, config: AuditConfig, suite: Suite, photos: Photos, graph: Graph | None = None, whose: str = ""
    ) -> None:
        self.config, self.suite, self.photos, self.subject = config, suite, photos, photos.name
        self.weights = backbone_bytes(suite)
        self.whose = whose  # in the labels of a graph that has several subjects
        self.graph = Graph() if graph is None else graph
        self.guidance = config.guidance or suite.spec.guidance
        self.transport = {"suite": _anywhere(config.suite, suites()), **asdict(config.machine)}
        self.words = {"class_noun": config.subject.class_noun, "identifier": config.subject.identifier}
        self.clean = self._photos(photos, "train")
        self.reference = self._photos(photos, "reference")
        self._made: dict[tuple[Any, ...], tuple[Canonical, tuple[object, ...]]] = {}
        self.names = list(photos.train_names)
        # Photos have no prompt that they could be aligned with, but originals that they are compared with.
        self.photo_metrics = (*(name for name in config.metrics if name != "alignment"), "fidelity")
        self.class_images = self._class_images() if config.class_images else None
        self.protected = self._given(photos) if config.already_protected else self.protect(config.protection)

    def but(self, **changes: Any) -> Self:
        """The nodes of the same subject on the same graph, by another configuration."""
        return type(self)(self.config.model_copy(update=changes), self.suite, self.photos, self.graph, self.whose)

    @property
    def prompts(self) -> list[str]:
        """The evaluation prompts as they name the subject, without what decoupling adds."""
        return [prompt.format(subject=self.config.subject.words.name) for prompt in self.config.prompts]

    def luck(self, seed: int) -> int:
        """The seed of a stage: the same in all arms of a subject, which are compared by pairs, and no other subject's.

        Statistics draw subjects, and seeds within them: a draw that all subjects had in common would be in no interval.
        """
        if self.config.common_seeds:
            return seed
        return derive(seed, self.photos.digest) >> 31  # 32 bits are enough, and short where people read them

    def _once(self, make: Callable[[], dict[str, Any]], *about: object) -> Canonical:
        """The configuration that ``make`` gives, made once for the same words, numbers and objects ``about``."""
        names = tuple(each if isinstance(each, str | int) else id(each) for each in about)
        if names not in self._made:
            self._made[names] = Canonical(make(), str(about[0])), about  # what is kept cannot give its id away
        return self._made[names][0]

    def _label(self, label: str) -> str:
        return f"{label}, {self.whose}" if self.whose else label

    def _photos(self, photos: Photos, split: str) -> Node:
        config = {"digest": photos.digest, "size": self.suite.spec.resolution, "split": split}
        transport = {"photos": _anywhere(self.config.clean_folder)}
        return self.graph.add("photos", config, transport=transport, label=self._label(f"{split} photos"))

    def _given(self, photos: Photos) -> Node:
        """Photos that another tool protected, paired with the clean ones."""
        config = {
            "digest": folder_digest(Path(self.config.folder)),
            "size": self.suite.spec.resolution,
            "split": "protected",
            "names": list(photos.train_names),
        }
        transport = {"photos": _anywhere(self.config.clean_folder), "protected": _anywhere(self.config.folder)}
        return self.graph.add("photos", config, {"clean": self.clean}, transport=transport, label="protected photos")

    def _class_images(self) -> Node:
        config = {
            "prompt": self.config.subject.words.class_prompt,
            "count": self.config.class_images,
            "steps": self.config.sampling_steps,
            "guidance": self.guidance,
            "seed": 0,
            "weights": self.suite.fingerprint("backbone"),
        }
        return self.graph.add(
            "class_images",
            config,
            transport=self.transport,
            label="class images",
            needs=self._takes(None),
        )

    def method(self, kind: Kind, choice: Choice, **more: Any) -> tuple[registry.Entry, dict[str, Any]]:
        """A method with its resolved settings, its version and the fingerprints of the weights it uses."""
        entry = registry.describe(kind, choice.name)
        settings = self.suite.settings(choice.name, more | choice.settings)
        resolved: MethodConfig = entry.configure(**settings)
        resolved.check()
        weights = {
            slot: self.suite.fingerprint_of_faces() if slot == "faces" else self.suite.fingerprint(slot)
            for slot in entry.needs(resolved)
        }
        parts = {part.name: self.method(of, part)[1] for of, part in resolved.parts()}
        others = {name: load_suite(name, self.config.machine).fingerprint("backbone") for name in resolved.suites()}
        files = {name: file_digest(value) for name, value in resolved if isinstance(value, Path)}
        found = {
            "name": choice.name,
            "settings": resolved.key_fields(),
            "version": entry.method.version,
            "weights": weights,
        }
        more_of_it = {"parts": parts, "suites": others, "files": files, "models": resolved.models()}
        return entry, found | {name: value for name, value in more_of_it.items() if value}

    def _takes(self, kind: Kind | None, *names: str) -> Needs:
        """What a stage takes that runs these methods, or only draws pictures, where this audit computes."""
        return takes(self.config.device, self.weights, kind, names)

    def protect(self, choice: Choice) -> Node:
        """The photos with a protective perturbation; the class images go along where there is a surrogate."""

        def make() -> dict[str, Any]:
            _, method = self.method("protect", choice, budget=self.config.budget)
            return {"method": method, "subject": self.words, "seed": self.luck(self.config.seeds[0])}

        config, inputs = self._once(make, "protect", choice), {"photos": self.clean}
        if self.class_images and "backbone" in registry.describe("protect", choice.name).method.needs:
            inputs["class_images"] = self.class_images
        label = self._label(f"protect: {choice.spoken}@{self.config.budget:g}")
        needs = self._takes("protect", choice.name)
        return self.graph.add("protect", config, inputs, transport=self.transport, label=label, needs=needs)

    def purify(self, source: Node, chain: tuple[Choice, ...]) -> Node:
        """Photos after a chain of purifiers."""

        def make() -> dict[str, Any]:
            methods = [self.method("purify", choice)[1] for choice in chain]
            return {"chain": methods, "subject": self.words, "seed": self.luck(self.config.seeds[0])}

        config = self._once(make, "purify", chain)
        names = "+".join(choice.spoken for choice in chain)
        label = f"purify: {names} of {source.label.removeprefix('protect: ')}"  # which says whose they are
        needs = self._takes("purify", *(choice.name for choice in chain))
        return self.graph.add("purify", config, {"photos": source}, transport=self.transport, label=label, needs=needs)

    def personalize(self, source: Node, decoupling: Decoupling, seed: int, label: str) -> Node:
        """The model that the trainer makes of photos; ``NONE`` trains it without decoupling."""

        def make() -> dict[str, Any]:
            return {
                "method": self.method("personalize", self.config.trainer)[1],
                "subject": self.words,
                "decoupling": decoupling.training,
                "seed": self.luck(seed),
            }

        config = self._once(make, "personalize", decoupling, seed)
        inputs = {"photos": source} | ({"class_images": self.class_images} if self.class_images else {})
        label = self._label(f"personalize: {label}, seed {seed}")
        needs = self._takes("personalize", self.config.trainer.name)
        return self.graph.add("personalize", config, inputs, transport=self.transport, label=label, needs=needs)

    def generate(self, model: Node | None, decoupling: Decoupling, seed: int, label: str) -> Node:
        """Pictures of every evaluation prompt, from a personalized model or, without one, from the suite's own."""

        def make() -> dict[str, Any]:
            return {
                "prompts": [decoupling.sampling(prompt) for prompt in self.prompts],
                "negative": decoupling.negative,
                "count": self.config.images_per_prompt,
                "steps": self.config.sampling_steps,
                "guidance": self.guidance,
                "seed": self.luck(seed),
                "weights": self.suite.fingerprint("backbone"),
            }

        config = self._once(make, "generate", decoupling, seed)
        inputs = {"model": model} if model else {}
        label, needs = self._label(f"generate: {label}, seed {seed}"), self._takes(None)
        return self.graph.add("generate", config, inputs, transport=self.transport, label=label, needs=needs)

    def score(self, images: Node, metrics: tuple[str, ...], label: str, clean: Node | None = None) -> Node:
        """Scores against the reference photos; paired ones, against ``clean``, where that is given."""
        paired = {name for name in metrics if registry.describe("metrics", name).method.paired}
        metrics = tuple(dict.fromkeys(name for name in metrics if clean or name not in paired))

        def make() -> dict[str, Any]:
            methods = [self.method("metrics", self.config.metric(name))[1] for name in metrics]
            prompts = None
            if images.stage == "generate":  # all arms are judged by the plain prompt, whatever they were sampled with
                prompts = [prompt for prompt in self.prompts for _ in range(self.config.images_per_prompt)]
            return {"metrics": methods, "subject": self.words, "prompts": prompts}

        config = self._once(make, "score", images.stage, *metrics)
        inputs = {"images": images, "reference": self.reference} | ({"clean": clean} if clean else {})
        label, needs = self._label(f"score: {label}"), self._takes("metrics", *metrics)
        return self.graph.add("score", config, inputs, transport=self.transport, label=label, needs=needs)


def _anywhere(place: str, names: Iterable[str] = ()) -> str:
    """A folder as workers of another working directory find it; ``drawn:N`` and ``names`` are no folders."""
    return place if place.startswith("drawn:") or place in names else str(Path(place).absolute())
