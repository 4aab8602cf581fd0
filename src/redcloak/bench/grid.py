"""From a matrix to its arms and the graph of stages behind them, every stage once.

An arm is one combination of the axes. Three kinds are always there, whatever the filters say: photos as they are
(``clean``), sign noise of the same budget (``random_noise``), and every protection with nothing done against it. The
model before personalization (``untuned``) is the floor of every score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

from redcloak.bench.axes import AXES, NOTHING, PLAIN, Option, Person, Words
from redcloak.bench.config import MatrixConfig
from redcloak.bench.digests import Digests
from redcloak.config import Choice
from redcloak.errors import UserError, unknown
from redcloak.nodes import Nodes
from redcloak.prompts import NONE
from redcloak.report.model import CLEAN, RANDOM_NOISE, UNTUNED
from redcloak.runtime.matrix import Graph, Node
from redcloak.suite import load as load_suite

BASELINES = (UNTUNED, CLEAN, RANDOM_NOISE)
NO_BUDGET = "-"
ALWAYS = {"protection": BASELINES, "purifier": (NOTHING,), "decoupling": (PLAIN,)}  # labels that every matrix has
Treatment = tuple[str, str, str, str, str, str]  # of an arm's axes all but prompts and seed
AS_THEY_ARE = Option(label=NOTHING, chain=())


class Axes(NamedTuple):
    """Where an arm lies: the label of its value on every axis."""

    subject: str
    protection: str
    budget: str
    purifier: str
    trainer: str
    decoupling: str
    prompts: str
    seed: str

    @property
    def arm(self) -> str:
        """The path without the subject and the seed, over which results are compared: ``aspl@11 jpeg cdl``."""
        words = [self.protection if self.budget == NO_BUDGET else f"{self.protection}@{self.budget}"]
        words += [word for word in (self.purifier, self.decoupling) if word not in (NOTHING, PLAIN)]
        return " ".join(words)


class Arm(NamedTuple):
    """One arm and the nodes that it is read from; the model before personalization has no photos."""

    axes: Axes
    images: Node
    scores: Node
    model: Node | None = None
    photos: Node | None = None
    clean: Node | None = None
    trained_on: Node | None = None
    photo_scores: Node | None = None

    @property
    def targets(self) -> Iterator[Node]:
        """What a report of this arm reads."""
        nodes = (self.images, self.scores, self.photos, self.clean, self.trained_on, self.photo_scores)
        return (node for node in nodes if node is not None)


class Filter:
    """The arms that ``only`` and ``exclude`` leave; labels are looked up once, not for every arm."""

    def __init__(self, config: MatrixConfig) -> None:
        self.only = [_sets(config, each) for each in config.only]
        self.exclude = [_sets(config, each) for each in config.exclude]

    def keeps(self, axes: Axes) -> bool:
        """Whether an arm is to be made.

        What filters say of protections and budgets is not said of baselines, unless they name one; and what they
        exclude by its treatment is never the arm that has none.
        """
        if self.only and not any(_matches(each, axes, _unsaid(each, axes)) for each in self.only):
            return False
        untreated = (axes.purifier, axes.decoupling) == (NOTHING, PLAIN)
        return not any(
            _excludes(each, axes)
            for each in self.exclude
            if not (untreated and each.keys() & {"purifier", "decoupling"})
        )


def _sets(config: MatrixConfig, filters: dict[str, tuple[str, ...]]) -> dict[str, frozenset[str]]:
    """Axis -> the labels that its patterns match."""
    found = {}
    for axis, patterns in filters.items():
        labels = list(dict.fromkeys((*config.labels(axis), *ALWAYS.get(axis, ()))))
        for pattern in patterns:
            if not any(fnmatchcase(label, pattern) or label == pattern for label in labels):
                raise unknown(f"{axis} in a filter", pattern, labels)
        found[axis] = frozenset(label for label in labels for p in patterns if fnmatchcase(label, p) or label == p)
    return found


def _unsaid(sets: dict[str, frozenset[str]], axes: Axes) -> tuple[str, ...]:
    """The axes of a filter that do not speak of an arm."""
    if axes.protection not in BASELINES:
        return ()
    if sets.get("protection", frozenset()).isdisjoint(BASELINES):
        return ("protection", "budget")
    return ("budget",) if axes.budget == NO_BUDGET else ()


def _excludes(sets: dict[str, frozenset[str]], axes: Axes) -> bool:
    skip = _unsaid(sets, axes)
    return bool(sets.keys() - set(skip)) and _matches(sets, axes, skip)


def _matches(sets: dict[str, frozenset[str]], axes: Axes, skip: Sequence[str]) -> bool:
    return all(axes[AXES.index(axis)] in labels for axis, labels in sets.items() if axis not in skip)


@dataclass
class Matrix:
    """The arms of a configuration, and their graph; of each subject what is known of its photos, such as the digest."""

    config: MatrixConfig
    graph: Graph = field(default_factory=Graph)
    arms: list[Arm] = field(default_factory=list)
    held_out: dict[str, bool] = field(default_factory=dict)
    strangers: dict[str, str | None] = field(default_factory=dict)
    references: dict[str, int] = field(default_factory=dict)
    photos: dict[str, str] = field(default_factory=dict)
    digests: Digests = field(default_factory=Digests)

    @classmethod
    def of(cls, config: MatrixConfig, digests: Digests | None = None) -> Matrix:
        """Expand a configuration; nothing that is slow to import is imported.

        Raises:
            UserError: an unknown name, a wrong setting, photos that are not there, or the same ones of two subjects.
        """
        matrix, kept = cls(config, digests=digests or Digests()), Filter(config)
        for person in config.subjects:
            matrix.arms += _Weaver(matrix, person, kept).arms()
        with suppress(UserError):  # who only looks, perhaps at a folder that cannot be written, goes without
            matrix.digests.keep()
        return matrix

    def targets(self) -> list[Node]:
        """The nodes that a report reads, each once."""
        return list({id(node): node for arm in self.arms for node in arm.targets}.values())


class _Weaver:
    """Weaves the arms of one subject into the graph."""

    def __init__(self, matrix: Matrix, person: Person, kept: Filter) -> None:
        self.config, self.person, self.kept = matrix.config, person, kept
        audit = matrix.config.audit(person)
        suite = load_suite(audit.suite, audit.machine)
        photos = matrix.digests.photos(person.photos, suite.spec.resolution)
        twin = next((label for label, digest in matrix.photos.items() if digest == photos.digest), None)
        if twin is not None:
            raise UserError(f"subjects: {person.label!r} has the same photos as {twin!r}; people count once, drop one.")
        matrix.photos[person.label] = photos.digest
        matrix.held_out[person.label] = photos.held_out
        matrix.strangers[person.label] = matrix.digests.strangers(person.photos, suite.spec.resolution)
        matrix.references[person.label] = len(photos.reference_names)
        self.base = Nodes(audit, suite, photos, matrix.graph, person.label)
        self.trainers = [
            (each.label, self.base if index == 0 else self.base.but(trainer=each.chain[0]))
            for index, each in enumerate(matrix.config.trainers)
        ]
        self.prompts = [
            (each.label, self.base if index == 0 else self.base.but(prompts=each.prompts))
            for index, each in enumerate(matrix.config.prompts)
        ]
        chains = [option for option in matrix.config.purifiers if option.chain]
        self.chains = [AS_THEY_ARE, *chains]
        words = [each for each in matrix.config.decoupling if not each.plain]
        self.words = [Words(label=PLAIN, decoupling=NONE), *words]
        self.asked = {
            (chain.label, each.label)
            for chain in self.chains
            for each in self.words
            if chain.label in matrix.config.labels("purifier") and each.label in matrix.config.labels("decoupling")
        }

    def arms(self) -> Iterator[Arm]:
        """Every arm of the subject: the floor, the baselines, the protections."""
        for prompts, builder in self.prompts:
            seed = self.config.seeds[0]
            axes = Axes(self.person.label, UNTUNED, NO_BUDGET, NOTHING, NOTHING, PLAIN, prompts, str(seed))
            images = builder.generate(None, NONE, seed, UNTUNED)
            yield Arm(axes, images, builder.score(images, self.config.metrics, UNTUNED))
        yield from self.treated(CLEAN, NO_BUDGET, self.base.clean)
        for budget in self.config.budgets:
            builder = self.base if budget == self.base.config.budget else self.base.but(budget=budget)
            yield from self.treated(RANDOM_NOISE, f"{budget:g}", builder.protect(Choice(name=RANDOM_NOISE)))
            for option in self.config.protections:
                if option.label not in BASELINES:
                    yield from self.treated(option.label, f"{budget:g}", builder.protect(option.chain[0]))

    def treated(self, protection: str, budget: str, source: Node) -> Iterator[Arm]:
        """What is done to one set of photos; where anything is, also nothing."""
        baseline = protection in BASELINES
        for chain in self.chains:
            trained_on = photo_scores = None
            for trainer, builder in self.trainers:
                for words in self.words:
                    nothing_done = not chain.chain and words.plain
                    if not nothing_done and ((chain.label, words.label) not in self.asked):
                        continue
                    if baseline and not nothing_done and self.config.baselines == "plain":
                        continue
                    rest = (self.person.label, protection, budget, chain.label, trainer, words.label)
                    wanted = list(self._wanted(rest, always=nothing_done and (baseline or self._any(rest))))
                    if not wanted:
                        continue
                    if trained_on is None:
                        trained_on = self.base.purify(source, chain.chain) if chain.chain else source
                        of = f"photos of {Axes(*rest, '', '')._replace(decoupling=PLAIN).arm}"
                        photo_scores = self.base.score(trained_on, self.base.photo_metrics, of, self.base.clean)
                    yield from self._trained(source, trained_on, photo_scores, words, builder, wanted)

    def _wanted(self, rest: Treatment, always: bool) -> Iterator[tuple[int, list[Axes]]]:
        """Each seed with the arms that differ by their prompts alone."""
        for seed in self.config.seeds:
            arms = [Axes(*rest, prompts, str(seed)) for prompts, _ in self.prompts]
            if kept := [axes for axes in arms if always or self.kept.keeps(axes)]:
                yield seed, kept

    def _any(self, rest: Treatment) -> bool:
        """Whether the filters leave any arm of this protection, budget and trainer, whatever is done against it."""
        if not self.kept.only and not self.kept.exclude:
            return True
        subject, protection, budget, _, trainer, _ = rest
        return any(
            self.kept.keeps(Axes(subject, protection, budget, chain, trainer, words, prompts, str(seed)))
            for chain, words in self.asked
            for prompts, _ in self.prompts
            for seed in self.config.seeds
        )

    def _trained(
        self,
        source: Node,
        trained_on: Node,
        photo_scores: Node | None,
        words: Words,
        builder: Nodes,
        wanted: list[tuple[int, list[Axes]]],
    ) -> Iterator[Arm]:
        drawers = dict(self.prompts)
        for seed, arms in wanted:
            label = _with(arms[0].arm, arms[0].trainer, self.config.trainers)
            model = builder.personalize(trained_on, words.decoupling, seed, label)
            for axes in arms:
                drawer, drawn = drawers[axes.prompts], _with(label, axes.prompts, self.config.prompts)
                images = drawer.generate(model, words.decoupling, seed, drawn)
                scores = drawer.score(images, self.config.metrics, f"{drawn}, seed {seed}")
                yield Arm(axes, images, scores, model, source, self.base.clean, trained_on, photo_scores)


def _with(words: str, value: str, axis: Sequence[object]) -> str:
    """``words`` with the value of an axis, where that has several."""
    return f"{words}, {value}" if len(axis) > 1 else words
