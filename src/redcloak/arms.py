"""The arms of an audit, and the graph of stages that makes them.

untuned               the model before personalization: the floor of every score
clean                 personalized on the photos as they are
random_noise          on photos with sign noise of the same budget: is it the noise, or what it says?
protected             on protected photos
protected+PURIFIER    on protected photos after a purifier, one arm for each chain
red_team              on protected photos after the red team's purifier, with contrastive decoupling
clean+red_team        the red team on clean photos: does the cure harm the healthy?
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from redcloak.config import Chain, Choice
from redcloak.errors import UserError
from redcloak.nodes import Nodes
from redcloak.prompts import NONE, Decoupling
from redcloak.report.model import CLEAN, PROTECTED, RANDOM_NOISE, RED_TEAM, UNTUNED
from redcloak.report.model import Arm as ArmSummary
from redcloak.report.table import Row, Source
from redcloak.runtime.matrix import Node
from redcloak.runtime.store import Artifact

WordPart = Literal["identifier", "text_encoder"]


@dataclass
class Arm:
    """One arm: its summary for the report, and the nodes that it is read from."""

    summary: ArmSummary
    photos: Node | None = None
    clean: Node | None = None
    trained_on: Node | None = None
    photo_scores: Node | None = None
    models: list[Node] = field(default_factory=list)
    generated: list[tuple[int, Node]] = field(default_factory=list)
    scores: list[tuple[int, Node]] = field(default_factory=list)

    @property
    def targets(self) -> list[Node]:
        """What a report of this arm reads; the models are needed only to make them."""
        drawn = [node for _, node in (*self.generated, *self.scores)]
        return drawn + [node for node in (self.photos, self.clean, self.trained_on, self.photo_scores) if node]

    def rows(self, subject: str, read: Callable[[Node], Artifact]) -> Iterator[Row]:
        """The arm's rows of the long table of scores."""
        nodes: list[tuple[int, Source, Node]] = [(seed, "generated", node) for seed, node in self.scores]
        if self.photo_scores:
            nodes.append((self.scores[0][0], "photos", self.photo_scores))
        for seed, source, node in nodes:
            for prompt, image, metric, value in json.loads((read(node).path / "scores.json").read_text("utf-8")):
                yield Row(subject, self.summary.name, seed, source, prompt, image, metric, value)


def labels(chains: Sequence[Chain]) -> list[str]:
    """What reports call each chain of purifiers: its methods, with their settings where others are called the same.

    Raises:
        UserError: a chain stands twice.
    """
    names = ["+".join(step.name for step in chain) for chain in chains]
    full = ["+".join(step.spoken for step in chain) for chain in chains]
    found = [whole if names.count(name) > 1 else name for name, whole in zip(names, full, strict=True)]
    if twice := [label for label, count in Counter(found).items() if count > 1]:
        raise UserError(f"purifiers: {twice[0]!r} stands twice; drop one.")
    return found


class Builder(Nodes):
    """Builds the arms of one audit; every arm that shares a stage shares its node."""

    def arms(self) -> list[Arm]:
        """Every arm of the audit, in the order of the report."""
        config, cure = self.config, self.config.red_team
        name = "another tool" if config.already_protected else config.protection.name
        noise = Choice(name="random_noise")
        arms = [
            self.untuned(),
            self.arm(CLEAN, "Clean", "Personalized on the photos as they are.", self.clean),
            self.arm(
                RANDOM_NOISE,
                "Random noise",
                "Sign noise of the same budget: the control for noise as such.",
                self.protect(noise),
                protection="random_noise",
            ),
            self.arm(PROTECTED, f"Protected ({name})", "Nothing done against it.", self.protected, protection=name),
        ]
        for label, chain in zip(labels(config.purifiers), config.purifiers, strict=True):
            words = f"The protected photos after {label}."
            arms.append(self.arm(f"{PROTECTED}+{label}", label, words, self.protected, chain, protection=name))
        label = "+".join(step.name for step in cure)
        words = f"The protected photos after {label}, trained and sampled with contrastive decoupling."
        arms += [
            self.arm(RED_TEAM, f"Red team ({label} + CDL)", words, self.protected, cure, True, protection=name),
            self.arm(
                f"{CLEAN}+{RED_TEAM}",
                f"Clean + red team ({label} + CDL)",
                "The same treatment of clean photos: does the cure harm the healthy?",
                self.clean,
                cure,
                True,
            ),
        ]
        return arms

    def untuned(self) -> Arm:
        """The arm of the model before personalization."""
        arm = Arm(ArmSummary(name=UNTUNED, title="Untuned model", words="Before personalization: the floor."))
        self._draw(arm, None, NONE, self.config.seeds[0])
        return arm

    def arm(
        self,
        name: str,
        title: str,
        words: str,
        source: Node,
        chain: tuple[Choice, ...] = (),
        cdl: bool = False,
        protection: str | None = None,
    ) -> Arm:
        """Add one arm: photos -> purifier chain -> a model for each seed, with or without decoupling -> scores."""
        summary = ArmSummary(
            name=name,
            title=title,
            words=words,
            protection=protection,
            budget=self.config.budget if protection else None,
            purifiers=tuple(step.name for step in chain),
            cdl=cdl,
        )
        arm = Arm(summary, photos=source, clean=self.clean)
        arm.trained_on = self.purify(source, chain) if chain else source
        arm.photo_scores = self.score(arm.trained_on, self.photo_metrics, f"photos of {name}", self.clean)
        decoupling = self.config.decoupling if cdl else NONE
        for seed in self.config.seeds:
            model = self.personalize(arm.trained_on, decoupling, seed, name)
            arm.models.append(model)
            self._draw(arm, model, decoupling, seed)
        return arm

    def swapped(self, name: str, title: str, words: str, receiver: Arm, donor: Arm, part: WordPart) -> Arm:
        """An arm of trained models, each with what the donor's model of the same seed learned of words.

        Nothing is trained. ``part``: the identifier's token embeddings, or the whole text encoder.
        """
        arm = Arm(ArmSummary(name=name, title=title, words=words))
        config = {"part": part, "identifier": self.config.subject.identifier}
        pairs = zip(self.config.seeds, receiver.models, donor.models, strict=True)
        for seed, model, giver in pairs:
            inputs = {"model": model, "donor": giver}
            node = self.graph.add("swap", config, inputs, transport=self.transport, label=f"swap: {name}")
            arm.models.append(node)
            self._draw(arm, node, NONE, seed)
        return arm

    def _draw(self, arm: Arm, model: Node | None, decoupling: Decoupling, seed: int) -> None:
        node = self.generate(model, decoupling, seed, arm.summary.name)
        arm.generated.append((seed, node))
        arm.scores.append((seed, self.score(node, self.config.metrics, f"{arm.summary.name}, seed {seed}")))
