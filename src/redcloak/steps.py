"""The steps of the chain one at a time: the nodes of an audit, made in this process and put into a folder.

Each step builds its node as an audit does (`nodes.Nodes`): the same photos, settings and seed give the pixels of an
audit with ``common_seeds``, whatever the configuration says of that. All take one configuration, that of an audit.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from redcloak import registry
from redcloak.api import Kind, Progress, Score, silent
from redcloak.config import AuditConfig, Choice
from redcloak.configured import needs, templates
from redcloak.errors import UserError
from redcloak.images import (
    Picture,
    check_writable,
    digest,
    linf_on_disk,
    list_images,
    read_image,
    save_pictures,
)
from redcloak.nodes import Nodes
from redcloak.outputs import deliver, read_record, workspace
from redcloak.prompts import NONE, check_words
from redcloak.report.model import Arm, ArmRow, summarise
from redcloak.report.table import Row, Source, Table
from redcloak.runtime.checkpoint import STATE
from redcloak.runtime.matrix import Node
from redcloak.stages import run_stage
from redcloak.subjects import Photos, load_subject
from redcloak.suite import Suite
from redcloak.suite import load as load_suite

Watch = Callable[[str], Progress]
Pictures = dict[str, Picture]
PROMPTS = "prompts.json"


def unwatched(label: str) -> Progress:
    """A watch that shows nothing; another gives the progress callback of a stage by its label."""
    return silent


def protect(
    config: AuditConfig, out: Path, *, watch: Watch = unwatched, force: bool = False, resume: bool = False
) -> dict[str, int]:
    """Write the protected photos as PNG files: file name -> L_inf in 8-bit steps, measured on the files.

    The photos are fitted to the suite's resolution first, and L_inf is the distance to the fitted photo. The state of a
    long protection lies in ``.OUT.partial`` until it is done; ``resume`` goes on from there.

    Raises:
        UserError: whatever is wrong with the photos, the settings or the output folder; or a run of the same command
            was killed, and neither ``resume`` nor ``force`` is given.
    """
    step = _Step(config)
    step.need("protect", config.protection)
    step.partial = out.parent / f".{out.name}.partial"
    if not resume:
        _begin_anew(step.partial / step.builder.protected.key[:16], force)
    with workspace(out, "protect", [config.folder], force=force) as space:
        linf, _ = step.edit(step.builder.protected, space, out, watch)
    shutil.rmtree(step.partial, ignore_errors=True)
    return linf


def _begin_anew(partial: Path, force: bool) -> None:
    """Let go of what a killed run of the same command kept, but not by mistake: it may be hours of work."""
    if (partial / STATE).exists() and not force:
        raise UserError(f"{str(partial)!r} holds the state of a killed run: --resume goes on, --force begins anew.")
    shutil.rmtree(partial.parent, ignore_errors=True)


def purify(
    config: AuditConfig, out: Path, *, fit: bool = False, watch: Watch = unwatched, force: bool = False
) -> tuple[dict[str, int], dict[str, Any]]:
    """Write the photos after the chain ``config.red_team``: file name -> largest change in 8-bit steps; and notes.

    Of a restorer of faces, the notes tell in how many photos it found none: ``pictures_without_face``.
    Photos of a folder keep their size; ``fit`` crops and resizes them to the suite's resolution first, as an audit
    does.

    Raises:
        UserError: whatever is wrong with the photos, the settings or the output folder.
    """
    step = _Step(config, fitted=fit)
    node = step.builder.purify(step.builder.clean, config.red_team)
    step.need("purify", *config.red_team)
    with workspace(out, "purify", [config.folder], force=force) as space:
        return step.edit(node, space, out, watch)


def personalize(
    config: AuditConfig,
    out: Path,
    *,
    cdl: bool = False,
    watch: Watch = unwatched,
    force: bool = False,
    resume: bool = False,
    warn: Callable[[str], None] = warnings.warn,
) -> None:
    """Fine-tune the suite's backbone on the photos and write a diffusers folder; class images are made first.

    The state of the training lies in ``.OUT.partial`` until it is done; ``resume`` goes on from there. ``warn`` is
    told, before anything is made, which photos seem to show someone else than the rest, and where photos that a
    protection or a purifier made show no face any more.

    Raises:
        UserError: whatever is wrong with the photos, the settings or the output folder; or a run of the same command
            was killed, and neither ``resume`` nor ``force`` is given.
    """
    step = _Step(config, minimum=2)
    decoupling = config.decoupling if cdl else NONE
    node = step.builder.personalize(step.builder.clean, decoupling, config.seeds[0], config.trainer.name)
    step.need("personalize", config.trainer)
    said = templates(step.suite, config.trainer)
    check_words(step.suite.tokenizer, config.subject.words, decoupling, (), said)
    if strangers := step.strangers():
        warn(strangers)
    step.partial = out.parent / f".{out.name}.partial"
    if not resume:
        _begin_anew(step.partial / node.key[:16], force)
    with workspace(out, "personalize", [config.folder], force=force) as space:
        step.give(step.builder.clean, step.train, space)
        deliver(step.make(node, space, watch) / "model", out, "personalize", step.facts(node))
    shutil.rmtree(step.partial, ignore_errors=True)


def score(
    config: AuditConfig,
    images: Path,
    out: Path,
    *,
    metrics: Sequence[str] = (),
    watch: Watch = unwatched,
    force: bool = False,
) -> tuple[ArmRow, dict[str, Score]]:
    """Score every picture of ``images`` against the reference ``config.folder``, and write the parquet file ``out``.

    ``metrics`` are by default those of an audit that apply: those whose models the suite has; alignment where
    ``prompts.json`` lies beside the pictures; fidelity where every picture has a reference of its name.

    Returns:
        The mean of each score with its interval over the pictures, and what each score means.

    Raises:
        UserError: whatever is wrong with the pictures, the metrics or the output file.
    """
    _check_table(out, force)
    step = _Step(config, images)
    prompts = _prompts(images)
    chosen = tuple(metrics) or _applicable(step, prompts)
    paired = any(registry.load("metrics", name).method.paired for name in chosen)
    clean = step.builder.reference if paired else None
    node = step.builder.score(step.builder.clean, chosen, images.name, clean)
    step.need("metrics", *map(step.config.metric, chosen))
    with tempfile.TemporaryDirectory() as space:
        folder = step.give(step.builder.clean, step.train, Path(space))
        (folder / PROMPTS).write_text(json.dumps(prompts), encoding="utf-8")
        step.give(step.builder.reference, step.reference, Path(space))
        rows = json.loads((step.make(node, Path(space), watch) / "scores.json").read_text(encoding="utf-8"))
    name = images.resolve().name
    source: Source = "generated" if prompts else "photos"
    table = Table.of(Row(config.folder, name, config.seeds[0], source, *row) for row in rows)
    table.write(out)
    scores = registry.scores(chosen)
    return summarise(table, [Arm(name=name, title=name)], scores)[0], scores


class _Step:
    """One step: its pictures, the builder of its nodes, and the folders of the nodes that are there so far.

    ``images`` are the pictures to score, with ``config.folder`` as the reference; else the photos are all there is.
    """

    def __init__(
        self, config: AuditConfig, images: Path | None = None, *, minimum: int = 1, fitted: bool = True
    ) -> None:
        # The seed is what the command says, whatever the photos are: protected ones train as the clean ones did.
        self.config = config.model_copy(update={"already_protected": None, "common_seeds": True})
        self.suite = load_suite(config.suite, config.machine)
        split = "reference" if images else "train"
        own_size = not fitted and not config.folder.startswith("drawn:")
        self.reference = _unfitted(config.folder) if own_size else _pictures(config.folder, self.suite, split, minimum)
        self.train = _pictures(str(images), self.suite) if images else self.reference
        self.builder = Nodes(self.config, self.suite, _photos(config.folder, self.train, self.reference))
        self.folders: dict[str, Path] = {}
        self.notes: dict[str, dict[str, Any]] = {}
        self.partial: Path | None = None

    def need(self, kind: Kind, *choices: Choice) -> None:
        """Load the models of some methods now, so that a missing one is told before anything is written."""
        for choice in choices:
            entry = registry.load(kind, choice.name)
            for slot in entry.needs(entry.configure(**self.suite.settings(choice.name, choice.settings))):
                getattr(self.suite, slot)

    def strangers(self) -> str | None:
        """What is wrong with the faces of the photos, where any score of the configuration looks at faces.

        Raises:
            UserError: there is no face; of photos that a method of ours made, that is a result, and only told.
        """
        if "faces" not in needs(self.suite, [("metrics", self.config.metric(name)) for name in self.config.metrics]):
            return None
        from redcloak.detection import strangers

        try:
            found = strangers(self.builder.photos, self.suite.faces)
        except UserError as error:
            if read_record(Path(self.config.folder)).get("verb") not in ("protect", "purify"):
                raise
            return str(error)
        return found and f"photos of {self.config.folder!r}: {found}"

    def give(self, node: Node, pictures: Pictures, space: Path) -> Path:
        """Put pictures where a node would have put them."""
        folder = self.folders[node.key] = space / node.key[:16]
        save_pictures(folder / "images", list(pictures.values()), list(pictures))
        return folder

    def make(self, node: Node, space: Path, watch: Watch) -> Path:
        """The folder of a node, made with all that it needs."""
        if node.key not in self.folders:
            inputs = {name: self.make(source, space, watch) for name, source in node.inputs.items()}
            folder = space / node.key[:16]
            folder.mkdir()
            partial = {"partial": str(self.partial / node.key[:16])} if self.partial else {}
            transport = {**node.transport, **partial}
            self.notes[node.key] = run_stage(node.stage, node.config, inputs, folder, transport, watch(node.label))
            self.folders[node.key] = folder
        return self.folders[node.key]

    def edit(self, node: Node, space: Path, out: Path, watch: Watch) -> tuple[dict[str, int], dict[str, Any]]:
        """Make a node that changes photos and deliver it: file name -> change in 8-bit steps, and the stage's notes."""
        before = list_images(self.give(self.builder.clean, self.train, space) / "images")
        images = self.make(node, space, watch) / "images"
        change = {new.name: linf_on_disk(new, old) for new, old in zip(list_images(images), before, strict=True)}
        notes = {name: value for name, value in self.notes[node.key].items() if name != "losses"}
        deliver(images, out, node.stage, {"linf": change, "notes": notes, **self.facts(node)})
        return change, notes

    def facts(self, node: Node) -> dict[str, Any]:
        """What made a node, for the record beside its files."""
        return {"photos": self.config.folder, "suite": self.suite.name, "config": node.config}


def _pictures(spec: str, suite: Suite, split: str = "train", minimum: int = 1) -> Pictures:
    """By name, at the suite's resolution: every picture of a folder, or one split of a drawn subject."""
    photos = load_subject(spec, suite.spec.resolution, minimum=minimum)
    if spec.startswith("drawn:"):
        return dict(zip(getattr(photos, f"{split}_names"), getattr(photos, split), strict=True))
    names, pictures = photos.train_names + photos.reference_names, photos.train + photos.reference
    return dict(zip(names, pictures, strict=True))


def _unfitted(folder: str) -> Pictures:
    """By name, as large as they are: every picture of a folder."""
    return {path.name: read_image(path) for path in list_images(Path(folder))}


def _photos(name: str, train: Pictures, reference: Pictures) -> Photos:
    """Pictures in the form that a builder takes."""
    return Photos(
        name=name,
        train=tuple(train.values()),
        train_names=tuple(train),
        reference=tuple(reference.values()),
        reference_names=tuple(reference),
        held_out=train is not reference,
        digest=digest([*train.values(), *reference.values()]),
    )


def _applicable(step: _Step, prompts: dict[str, str]) -> tuple[str, ...]:
    """The metrics of an audit that can say something about these pictures."""
    same = sorted(Path(name).stem for name in step.train) == sorted(Path(name).stem for name in step.reference)
    asks = {"alignment": bool(prompts), "fidelity": same}
    chosen = []
    for name in sorted({*step.config.metrics, "fidelity"}):
        models = [slot for slot in registry.load("metrics", name).method.needs if slot != "faces"]
        if asks.get(name, True) and all(getattr(step.suite.spec, slot) for slot in models):
            chosen.append(name)
    return tuple(chosen)


def _prompts(images: Path) -> dict[str, str]:
    """The prompts beside generated pictures, by the name that the picture has as PNG; empty where there are none."""
    path = images / PROMPTS
    try:
        words = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {f"{Path(name).stem}.png": str(prompt) for name, prompt in words.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: {error}; remove it to score without prompts.") from None


def _check_table(out: Path, force: bool) -> None:
    """Refuse an output file that is a folder, that cannot be written, or that is there and is no table of scores."""
    if out.is_dir():
        raise UserError(f"--out {str(out)!r} is a folder; name a file, as in {out / 'scores.parquet'}.")
    check_writable(out.parent)
    if out.exists() and not force:
        try:
            Table.read(out)
        except UserError:
            raise UserError(f"--out {str(out)!r} is there and holds no scores; choose another, or --force.") from None
