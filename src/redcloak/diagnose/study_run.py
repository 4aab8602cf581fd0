"""Run a causal study: perturb, verify what was done on the saved photos, train, and write the verdicts.

The folder of a run holds ``study.yaml`` (every default resolved), ``scores.parquet``, ``causal.json``, ``causal.html``
and ``store/`` where no other store is named. The same study resumes.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from redcloak.arms import Arm, Builder
from redcloak.bench.folder import STUDY, only_driver
from redcloak.diagnose.causal_figures import dose, effects
from redcloak.diagnose.interventions import FLAWS, VERIFIED, nearest_words, spectrum_apart, verify
from redcloak.diagnose.study import StudyConfig, aimed, arms_of, builders, perturbations, photos_of
from redcloak.diagnose.verdicts import Evidence, Verdict, panel, verdicts
from redcloak.images import check_writable, load_images
from redcloak.nodes import STAGES
from redcloak.prompts import Decoupling, check_words
from redcloak.report.table import Table, write_whole
from redcloak.report.template import environment
from redcloak.runtime.execute import Event, run
from redcloak.runtime.matrix import Graph, Node
from redcloak.runtime.places import open_store
from redcloak.runtime.plan import Plan
from redcloak.runtime.plan import plan as plan_graph
from redcloak.runtime.store import Artifact, Store

Row = dict[str, Any]
MEASURED = (*VERIFIED, "spectrum")


@dataclass
class Findings:
    """What a study found: what was done to the photos of each subject and arm, and, where it trained, the verdicts."""

    config: StudyConfig
    photos: list[Row]
    evidence: Evidence | None = None

    @property
    def counts(self) -> str:
        """``12 subjects, 2 seeds``, and whether a seed was the same noise for all of them."""
        counts = {"subject": len(self.config.subjects), "seed": len(self.config.seeds)}
        said = ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for word, count in counts.items())
        shared = self.config.common_seeds and len(self.config.subjects) > 1
        return f"{said} (the same noise for all)" if shared else said

    @cached_property
    def verified(self) -> list[dict[str, str]]:
        """What was done to the photos: a row for each arm with the mean over subjects, and the largest of a photo."""
        table = []
        for arm in dict.fromkeys(row["arm"] for row in self.photos):
            mine = [row for row in self.photos if row["arm"] == arm]
            common = Counter(row["words"] for row in mine).most_common(1)[0][0]
            cells = {
                name: f"{sum(row[name] for row in mine) / len(mine):.3f} ({max(row['most'][name] for row in mine):.3f})"
                for name in MEASURED
            }
            table.append({"photos": arm, **cells, "nearest words": common})
        return table

    @cached_property
    def lost(self) -> dict[str, str]:
        """Identity that each arm lost against clean photos, with its interval."""
        return {name: str(self.evidence.lost(name)) for name in self.evidence.learned} if self.evidence else {}

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """Every claim's verdict."""
        return verdicts(self.evidence) if self.evidence else []

    def to_json(self) -> str:
        """Everything, for machines."""
        facts: dict[str, Any] = {"protocol": self.config.name, "config": self.config.model_dump(mode="json")}
        facts |= {"photos": self.photos, "verified": self.verified, "identity lost": self.lost}
        facts["verdicts"] = [_plain(asdict(each)) for each in self.verdicts]
        return json.dumps(facts, indent=1, default=str, allow_nan=False) + "\n"


@dataclass
class Study:
    """A study that is set up, the folder of its run, and the store."""

    config: StudyConfig
    out: Path
    store: Store
    builders: dict[str, Builder]

    @classmethod
    def prepare(cls, config: StudyConfig, out: Path, store: str | Path | None = None, read_only: bool = False) -> Study:
        """Check what can be checked before work is spent.

        Raises:
            UserError: whatever is wrong, in one line: photos, settings, a model that the suite has not, the folder.
        """
        made = builders(config)
        if not read_only:
            _check(config, next(iter(made.values())))
            check_writable(out)
        return cls(config, out, open_store(store or out / "store", read_only), made)

    @property
    def graph(self) -> Graph:
        """The one graph of all subjects."""
        return next(iter(self.builders.values())).graph

    def targets(self) -> list[Node]:
        """What the verdicts are read from; how photos are called, which only a look at them tells, as it was last."""
        photos = _targets(self._photos())
        return list(dict.fromkeys(photos + _targets(self.arms()))) if self.config.learn else photos

    def arms(self) -> dict[str, list[Arm]]:
        """The arms of each subject."""
        return self._arms(self._told())

    def plan(self) -> Plan:
        """What a run would compute."""
        model = next(iter(self.builders.values())).weights
        return plan_graph(self.graph, self.store, self.config.workers, self.store.root, self.targets(), model=model)

    def run(
        self,
        on_event: Callable[[Event], None] = lambda event: None,
        executor: str = "local",
        threads: int | None = None,
    ) -> Findings:
        """Make what is missing, in two turns, and write what was found.

        Raises:
            UserError: another run is at work in the same folder, or whatever a stage says.
        """

        def make(arms: Mapping[str, Sequence[Arm]]) -> None:
            targets, workers = _targets(arms), self.config.workers
            run(self.graph, self.store, STAGES, targets, workers, on_event, executor=executor, threads=threads)

        with only_driver(self.out), self.store.at_work():
            write_whole(self.out / STUDY, self.config.text().encode())
            photos = self._photos()
            make(photos)
            rows = self._measured(photos)
            if not self.config.learn:
                return self._write(Findings(self.config, rows))
            arms = self._arms({row["subject"]: row["words"] for row in rows if row["arm"] == "base"})
            make(arms)
            scores = Table.of(row for name, each in arms.items() for arm in each for row in arm.rows(name, self._read))
            scores.write(self.out / "scores.parquet")
            names = list(dict.fromkeys(arm.summary.name for each in arms.values() for arm in each))
            learned = {name: scores.sample(name, "identity_zero") for name in names}
            found = panel(rows, learned, tuple(aimed(self.config)))
            return self._write(Findings(self.config, rows, Evidence(learned, found, self.config.margins)))

    def _photos(self) -> dict[str, list[Arm]]:
        choices = perturbations(self.config)
        return {name: photos_of(builder, choices) for name, builder in self.builders.items()}

    def _arms(self, words: Mapping[str, str]) -> dict[str, list[Arm]]:
        choices = perturbations(self.config)
        named = {name: {"words": words[name]} if name in words else {} for name in self.builders}
        return {name: arms_of(builder, choices, **named[name]) for name, builder in self.builders.items()}

    def _told(self) -> dict[str, str]:
        """What protected photos looked like to CLIP when they were looked at last, where they were."""
        try:
            rows = json.loads((self.out / "causal.json").read_text("utf-8"))["photos"]
            return {row["subject"]: row["words"] for row in rows if row["arm"] == "base"}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _measured(self, arms: Mapping[str, Sequence[Arm]]) -> list[Row]:
        """What each perturbation did: one row for each subject and arm, of means over its photos and the ``most``."""
        suite, subject, rows = next(iter(self.builders.values())).suite, self.config.words.words, []
        for name, group in arms.items():
            made = {a.summary.name: load_images(self._read(a.photos).path / "images")[0] for a in group if a.photos}
            clean, base = made["clean"], made["base"]
            for arm, images in made.items():
                found = verify(images, clean, suite, subject)
                found["spectrum"] = spectrum_apart(images - clean, base - clean)
                means, most = ({k: round(float(f(v)), 5) for k, v in found.items()} for f in (torch.mean, torch.amax))
                words, gain = nearest_words(images, suite.clip, subject)
                fits = {"words": words, "words_gain": round(gain, 5)}
                rows.append({"subject": name, "arm": arm, **means, "most": most, **fits})
        return rows

    def _read(self, node: Node) -> Artifact:
        return self.store.read(node.key, node.label)

    def _write(self, found: Findings) -> Findings:
        figures = {}
        if found.evidence:
            effects(found.verdicts, self.out / "effects.svg")
            dose(found.evidence.panel, self.out / "dose.svg")
            figures = {name: (self.out / f"{name}.svg").read_bytes() for name in ("effects", "dose")}
        write_whole(self.out / "causal.html", page(found, figures).encode())
        write_whole(self.out / "causal.json", found.to_json().encode())
        return found


def _check(config: StudyConfig, builder: Builder) -> None:
    """See that the suite has the models that the interventions look with, and that its text encoder reads the words."""
    suite = builder.suite
    suite.check("backbone", "clip", "restorer", "upscaler")
    suite.perceptual  # noqa: B018 - raises where there is none
    for words in (*FLAWS, Decoupling().noise_token):
        check_words(suite.tokenizer, config.words.words, Decoupling(noise_token=words), builder.prompts)


def _plain(value: Any) -> Any:
    """JSON types, null for what is no number."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _targets(arms: Mapping[str, Sequence[Arm]]) -> list[Node]:
    """What a run has to make of the arms of all subjects, each node once."""
    return list(dict.fromkeys(node for group in arms.values() for arm in group for node in arm.targets))


def page(found: Findings, figures: Mapping[str, bytes]) -> str:
    """The verdicts, their figures and tables as one self-contained page that loads nothing."""
    images = {name: f"data:image/svg+xml;base64,{b64encode(data).decode()}" for name, data in figures.items()}
    rows = [[_words(str(row["photos"])), *list(row.values())[1:]] for row in found.verified]
    template = environment("diagnose").get_template("causal.html.j2")
    return template.render(
        found=found,
        figures=images,
        verified=[_words(name) for name in MEASURED],
        rows=rows,
        lost=[(_words(arm), value) for arm, value in found.lost.items()],
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
