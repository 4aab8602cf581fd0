"""One diagnosis from two folders of photos to a page: what moved, how far, and what the model learned of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from redcloak import __version__, registry
from redcloak.api import Context, Subject
from redcloak.backbone import Backbone
from redcloak.concepts import TITLES, prompts
from redcloak.config import AuditConfig
from redcloak.diagnose.clips import clips
from redcloak.diagnose.curve import courses, curve
from redcloak.diagnose.groups import Group, groups, pairs
from redcloak.diagnose.learned import attention, estimates, scorer
from redcloak.diagnose.misalignment import SCORES, Concepts, embedded, measure
from redcloak.diagnose.model import CurvePoint, Diagnosis, Extract, Heat, Map, Measures, infos, lines, rows
from redcloak.diagnose.projections import PROJECTIONS
from redcloak.drawing import as_trained, backbone_of, guidance_of
from redcloak.errors import UserError, unknown
from redcloak.generate import Sampling, generate
from redcloak.images import Picture, load_images, to_uint8
from redcloak.models.clip import Clip
from redcloak.outputs import deliver, workspace
from redcloak.parts import check_model
from redcloak.report.table import Table, write_whole
from redcloak.steps import Watch, unwatched
from redcloak.suite import Suite
from redcloak.suite import load as load_suite

MAPS = ("pca", "svd", "tsne")
MEMBERS = "class"


@dataclass(frozen=True)
class Asked:
    """What a diagnosis is asked beside what an audit's configuration says (photos, purifiers, subject, suite).

    Attributes:
        clean: the clean photos that ``config.folder`` were made from: a folder, or ``drawn:N``.
        controls: what is added to the clean photos in the size of the protection.
        clips: folders of transformers CLIPs beside the suite's own.
        maps: projections, of :data:`redcloak.diagnose.projections.PROJECTIONS`.
        members: a folder of photos of the class; by default ``config.class_images`` pictures by the suite's model.
        size: side in pixels that photos are fitted to; by default the suite's.
        models: personalized models whose concepts are drawn: diffusers folders.
        curve: training steps of the quality curve, which trains four models; 0 for none.
    """

    clean: str
    controls: tuple[str, ...] = ("random_noise",)
    clips: tuple[Path, ...] = ()
    maps: tuple[str, ...] = MAPS
    members: Path | None = None
    size: int | None = None
    models: tuple[str, ...] = ()
    curve: int = 0


def diagnose(
    config: AuditConfig,
    asked: Asked,
    out: Path,
    *,
    command: str = "",
    watch: Watch = unwatched,
    force: bool = False,
) -> Diagnosis:
    """Measure, and write ``diagnose.html``, ``diagnose.json`` and ``scores.parquet`` into the folder ``out``.

    What cannot be computed (an interval of one photo, the class without its pictures, the autoencoder where the
    backbone is not on this machine) is left out and told in ``notes``.

    Raises:
        UserError: the folders do not pair up, a CLIP is not whole, a name is unknown, or ``out`` cannot be written.
    """
    from redcloak.diagnose.page import render

    _check_names(config, asked)
    suite, subject = load_suite(config.suite, config.machine), config.subject.words
    size = asked.size or suite.spec.resolution
    found = pairs(config.folder, asked.clean, size)
    _check_learned(config, asked, len(found.names), size == suite.spec.resolution)
    lookers = clips(suite, asked.clips)
    with workspace(out, "diagnose", [config.folder, asked.clean, *asked.models], force=force) as space:
        watch("purify and perturb")
        made, notes = groups(found, config.purifiers, asked.controls, Context(suite, subject), config.seeds[0])
        backbone = _backbone(suite, notes)
        members = _members(config, asked, backbone, size, watch, notes)
        view = _View(subject, lookers, backbone, made, members)
        measures, name = view.measure(watch), Path(asked.clean).name
        context = Context(suite, subject, class_images=members, reference=made[0].images)
        extracts, heats, drawn = _learned(config, asked, context, watch)
        diagnosis = Diagnosis(
            redcloak_version=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            subject=name,
            suite=suite.name,
            prompt=subject.class_prompt,
            concepts={"class": view.concepts.subject, "noise": view.concepts.noise},
            resolution=size,
            members=0 if members is None else len(members),
            command=command,
            groups=infos(made),
            scores=SCORES,
            lines=lines(measures, name),
            maps=tuple(view.maps(asked.maps, notes, watch)),
            extracts=tuple(extracts),
            attention=tuple(heats),
            curve=tuple(_curve(config, asked, context, made, watch)),
            notes=(*_few(len(found.names)), *notes),
        )
        result = space / "result"
        result.mkdir()
        Table.of(rows(measures, name, diagnosis.prompt, found.names, config.seeds[0])).write(result / "scores.parquet")
        write_whole(result / "diagnose.json", diagnosis.to_json().encode())
        write_whole(result / "diagnose.html", render(diagnosis, made, drawn).encode())
        deliver(result, out, "diagnose", {"photos": config.folder, "clean": asked.clean, "suite": suite.name})
    return diagnosis


def _learned(
    config: AuditConfig, asked: Asked, context: Context, watch: Watch
) -> tuple[list[Extract], list[Heat], list[list[Picture]]]:
    """What each model draws of each concept, where its words look, and some of the pictures."""
    extracts, heats, drawn = [], [], []
    subject, score, count, seed = context.subject, scorer(context), config.images_per_prompt, config.seeds[0]
    for model in asked.models:
        backbone, name = backbone_of(model, config.machine), Path(model).resolve().name
        sampling = Sampling(config.sampling_steps, config.guidance or guidance_of(model))
        words = as_trained(model, config.decoupling)
        concepts = prompts(subject, words)
        pictures, _ = generate(backbone, list(concepts.values()), count, seed, sampling, progress=watch(name))
        for (concept, prompt), mine in zip(concepts.items(), torch.split(pictures, count), strict=True):
            found = estimates(score(mine))
            extracts.append(Extract(model=name, name=TITLES[concept], prompt=prompt, scores=found, n=count))
            drawn.append(list(to_uint8(mine)))
        looked, prompt = (subject.identifier, subject.class_noun, words.phrase), concepts["with_noise"]
        for one in attention(backbone, prompt, looked, min(count, 4), seed, sampling):
            rows_of = tuple(tuple(float(value) for value in row) for row in one.map)
            heats.append(Heat(model=name, prompt=prompt, word=one.word, share=one.share, map=rows_of))
    return extracts, heats, drawn


def _curve(
    config: AuditConfig, asked: Asked, context: Context, made: Sequence[Group], watch: Watch
) -> Iterator[CurvePoint]:
    """The points of the curve, where one was asked for."""
    if not asked.curve:
        return
    arms = courses(made[0].images, made[1].images, config, context)
    for arm, step, scores in curve(arms, config, context, asked.curve, watch):
        yield CurvePoint(arm=arm, step=step, scores=scores)


@dataclass(frozen=True)
class _View:
    """All groups in the eyes of all CLIPs."""

    subject: Subject
    clips: Mapping[str, Clip]
    backbone: Backbone | None
    groups: Sequence[Group]
    members: Tensor | None

    @property
    def concepts(self) -> Concepts:
        return Concepts.of(self.subject.class_noun)

    def measure(self, watch: Watch) -> Measures:
        """CLIP -> group -> score -> values. The prompt is the class's: CLIP never met the identifier."""
        report, done, total = watch("measure"), 0, len(self.clips) * len(self.groups)
        measures: Measures = {}
        for name, clip in self.clips.items():
            measures[name] = {}
            for group in self.groups:
                measures[name][group.name] = measure(
                    group.images,
                    self.subject.class_prompt,
                    clip,
                    self.backbone,
                    clean=self.groups[0].images,
                    members=self.members,
                    concepts=self.concepts,
                )
                done += 1
                report(done, total, {})
        return measures

    def maps(self, kinds: Sequence[str], notes: list[str], watch: Watch) -> list[Map]:
        """The projections of each CLIP; one that needs more photos, or a package, is told in ``notes``."""
        import numpy as np

        report, made = watch("maps"), []
        for index, (name, clip) in enumerate(self.clips.items()):
            parts = {group.name: group.images for group in self.groups}
            if self.members is not None:
                parts[MEMBERS] = self.members
            points = [embedded(images, clip).double().numpy() for images in parts.values()]
            cuts = np.cumsum([len(part) for part in points])[:-1]
            for kind in kinds:
                try:
                    placed = np.split(PROJECTIONS[kind](np.concatenate(points)), cuts)
                except UserError as error:
                    notes.append(f"{name}: {error}")
                    continue
                places = (tuple((float(x), float(y)) for x, y in each) for each in placed)
                made.append(Map(clip=name, kind=kind, points=dict(zip(parts, places, strict=True))))
            report(index + 1, len(self.clips), {})
        return made


def _check_names(config: AuditConfig, asked: Asked) -> None:
    """Refuse unknown names before any work is spent."""
    for chain in (*config.purifiers, config.red_team):
        for choice in chain:
            registry.load("purify", choice.name)
    registry.load("personalize", config.trainer.name)
    for name in asked.controls:
        registry.load("protect", name)
    for kind in asked.maps:
        if kind not in PROJECTIONS:
            raise unknown("map", kind, PROJECTIONS)


def _check_learned(config: AuditConfig, asked: Asked, photos: int, own_size: bool) -> None:
    """Refuse what the curve or a model cannot do before any work is spent."""
    if asked.curve and photos < 2:
        raise UserError("--curve: one photo; DreamBooth needs at least 2 of the same subject.")
    if asked.curve and not own_size:
        raise UserError("--curve trains at the suite's own resolution; leave --size out.")
    for model in asked.models:
        if Path(model).is_dir() and not (Path(model) / "suite.yaml").is_file():
            check_model(Path(model))
        else:
            backbone_of(model, config.machine)


def _backbone(suite: Suite, notes: list[str]) -> Backbone | None:
    """The suite's backbone; where it is not on this machine, a CLIP alone can still look at the photos."""
    try:
        return suite.backbone
    except UserError as error:
        notes.append(f"Nothing is measured after the autoencoder, and no class is drawn: {error}")
        return None


def _members(
    config: AuditConfig, asked: Asked, backbone: Backbone | None, size: int, watch: Watch, notes: list[str]
) -> Tensor | None:
    """Pictures of the class: photos that were given, or the class images that an audit draws."""
    if asked.members:
        return load_images(asked.members, size)[0]
    if backbone is None or config.class_images < 2:
        notes.append("No distance to the class: give its photos by --class-photos, or set class_images to 2 or more.")
        return None
    sampling = Sampling(config.sampling_steps, config.guidance or load_suite(config.suite).spec.guidance)
    wanted, count = [config.subject.words.class_prompt], config.class_images
    return generate(backbone, wanted, count, 0, sampling, progress=watch("class images"))[0]


def _few(count: int) -> list[str]:
    """What so few photos cannot tell."""
    if count == 1:
        return ["One photo: its numbers are given, but no interval, and nothing that holds for another photo."]
    return []
