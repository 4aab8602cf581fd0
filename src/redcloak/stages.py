"""The stages as pure functions: (resolved configuration, input folders) -> a folder, and notes about it.

Every picture artifact has its pictures in ``images/``. What a stage depends on stands in its configuration: settings,
seed, the version of the method and the fingerprint of the weights; where the photos lie on disk does not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from redcloak import registry
from redcloak.api import Context, Kind, Machine, Progress, Subject
from redcloak.errors import UserError
from redcloak.images import (
    Picture,
    by_size,
    folder_digest,
    linf_on_disk,
    list_images,
    load_images,
    read_image,
    rms_on_disk,
    save_images,
    to_tensor,
)
from redcloak.memory import exact
from redcloak.prompts import Decoupling
from redcloak.suite import Suite
from redcloak.suite import load as load_suite

Settings = Mapping[str, Any]
Folders = Mapping[str, Path]
Stage = Callable[[Settings, Folders, Path, Settings, Progress], dict[str, Any]]


def run_stage(
    stage: str, config: Settings, inputs: Folders, out: Path, transport: Settings, report: Progress
) -> dict[str, Any]:
    """Run one stage by name; this is what workers call."""
    return STAGES[stage](config, inputs, out, transport, report)


def photos(config: Settings, inputs: Folders, out: Path, transport: Settings, report: Progress) -> dict[str, Any]:
    """Copy a split of a subject's photos into the store, fitted to the suite's resolution.

    Raises:
        UserError: they are not the photos of which the key speaks, whose place it would take for ever.
    """
    from redcloak.subjects import load_subject, pair

    size, split = int(config["size"]), str(config["split"])
    if transport.get("protected"):
        _check_same(transport["protected"], folder_digest(Path(transport["protected"])), config)
        pairs = pair(Path(transport["photos"]), Path(transport["protected"]), size)
        chosen = set(config["names"])
        rows = zip(pairs.names, pairs.protected, strict=True)
        names, pictures = zip(*[row for row in rows if row[0] in chosen], strict=True)
    else:
        subject = load_subject(str(transport["photos"]), size)
        _check_same(transport["photos"], subject.digest, config)
        names, pictures = getattr(subject, f"{split}_names"), getattr(subject, split)
    save_images(out / "images", to_tensor(list(pictures)), list(names))
    return {}


def _check_same(photos: str, digest: str, config: Settings) -> None:
    if digest != config["digest"]:
        raise UserError(
            f"photos = {photos!r}: not what was planned: they were changed since, or are others on this machine "
            f"(digest {digest[:12]}, planned {str(config['digest'])[:12]}); run again, without the run's photos.json."
        )


def class_images(config: Settings, inputs: Folders, out: Path, transport: Settings, report: Progress) -> dict[str, Any]:
    """Draw the prior-preservation pictures from the model itself, once for all arms."""
    from redcloak.generate import Sampling, generate

    suite = _suite(transport)
    sampling = Sampling(int(config["steps"]), float(config["guidance"]))
    pictures, _ = generate(
        suite.backbone, [config["prompt"]], int(config["count"]), int(config["seed"]), sampling, progress=report
    )
    save_images(out / "images", pictures)
    return {}


def protect(config: Settings, inputs: Folders, out: Path, transport: Settings, report: Progress) -> dict[str, Any]:
    """Add a protective perturbation, then measure it on the files that were written.

    A long one keeps its state in the folder ``transport["partial"]`` and goes on from there after a kill.

    Raises:
        UserError: the budget is exceeded on a saved PNG.
    """
    from redcloak.crafting.ascent import Diverged
    from redcloak.crafting.balls import quantise
    from redcloak.rng import generators
    from redcloak.runtime.checkpoint import FileCheckpoint

    entry, settings = _method("protect", config["method"])
    clean, names = load_images(inputs["photos"] / "images")
    notes, follow = _recorded(report)
    partial = Path(transport["partial"]) if "partial" in transport else None
    context = _context(config, inputs, transport, follow)
    if partial:
        context = replace(context, checkpoint=FileCheckpoint(partial))
    streams = generators(int(config["seed"]), entry.name, len(clean))
    try:
        protected = entry.function(clean, settings, context, streams)
    except Diverged as error:
        if partial is None:
            raise
        save_images(partial / "last-good", quantise(error.images, clean, settings.ball), names)
        raise UserError(f"{entry.name}: {error} The last good result is in {partial / 'last-good'}.") from None
    files = save_images(out / "images", protected, names)
    originals = list_images(inputs["photos"] / "images")
    measure = linf_on_disk if settings.norm == "linf" else rms_on_disk
    size = max(measure(*pair) for pair in zip(files, originals, strict=True))
    if size > settings.budget * (1 + 1e-9):
        raise UserError(
            f"{entry.name}: the saved PNG is {size:g}/255 from the photo, over the budget of {settings.budget}."
        )
    linf = max(linf_on_disk(*pair) for pair in zip(files, originals, strict=True))
    return {"linf": linf, "size": size, "norm": settings.norm, **notes}


def purify(config: Settings, inputs: Folders, out: Path, transport: Settings, report: Progress) -> dict[str, Any]:
    """Pass photos through a chain of purifiers, those of one size together; a photo's stream is that of its row.

    What purifiers count, such as ``pictures_without_face``, is noted: the sum over all photos, and where several links
    of the chain count the same, the largest.
    """
    import torch

    from redcloak.rng import generators

    before = list_images(inputs["photos"] / "images")
    pictures = [read_image(path) for path in before]
    context = _context(config, inputs, transport, report)
    chain = [_method("purify", method) for method in config["chain"]]
    seed, batches, files = int(config["seed"]), [*_batches(pictures)], dict[int, Path]()
    streams = [generators(seed, f"{place}-{entry.name}", len(before)) for place, (entry, _) in enumerate(chain)]
    counts = [Counter[str]() for _ in chain]
    for turn, rows in enumerate(batches):
        images = to_tensor([pictures[row] for row in rows])
        for place, (entry, settings) in enumerate(chain):
            notes, follow = _recorded(report)
            mine = [streams[place][row] for row in rows]
            with torch.no_grad():
                images = entry.function(images, settings, replace(context, progress=follow), mine)
            counts[place].update({name: int(value) for name, value in notes.items() if name != "losses"})
            report(turn * len(chain) + place + 1, len(batches) * len(chain), {})
        files |= dict(zip(rows, save_images(out / "images", images, [before[row].name for row in rows]), strict=True))
    change = max(linf_on_disk(files[row], path) for row, path in enumerate(before))
    most = {name: max(count[name] for count in counts) for name in sorted(set().union(*counts))}
    return {"largest_change": change, **most}


def personalize(config: Settings, inputs: Folders, out: Path, transport: Settings, report: Progress) -> dict[str, Any]:
    """Fine-tune the suite's backbone on the photos and save it as a diffusers folder.

    It keeps its state in the folder ``transport["partial"]`` and goes on from there after a kill.
    """
    from redcloak.rng import generator
    from redcloak.runtime.checkpoint import FileCheckpoint

    entry, settings = _method("personalize", config["method"])
    images, _ = load_images(inputs["photos"] / "images")
    notes, follow = _recorded(report)
    context = _context(config, inputs, transport, follow)
    if "partial" in transport:
        context = replace(context, checkpoint=FileCheckpoint(Path(transport["partial"])))
    backbone = context.suite.backbone
    # A trainer whose configuration says what it changes is lent no more than that.
    with backbone.borrowed(settings.changes(backbone) if hasattr(settings, "changes") else None):
        entry.function(images, settings, context, generator(int(config["seed"]), entry.name))
        backbone.save(out / "model")
    return notes


def generate(config: Settings, inputs: Folders, out: Path, transport: Settings, report: Progress) -> dict[str, Any]:
    """Draw pictures from a personalized model, or from the suite's own where no model comes in."""
    from redcloak.backbone import Backbone
    from redcloak.generate import Sampling
    from redcloak.generate import generate as draw

    suite = _suite(transport)
    backbone = Backbone.load(inputs["model"] / "model", suite.machine) if "model" in inputs else suite.backbone
    sampling = Sampling(int(config["steps"]), float(config["guidance"]), str(config["negative"]))
    pictures, prompts = draw(
        backbone, config["prompts"], int(config["count"]), int(config["seed"]), sampling, progress=report
    )
    files = save_images(out / "images", pictures)
    words = {file.name: prompt for file, prompt in zip(files, prompts, strict=True)}
    (out / "prompts.json").write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    return {}


def score(config: Settings, inputs: Folders, out: Path, transport: Settings, report: Progress) -> dict[str, Any]:
    """Score every picture with every metric: rows of (prompt, image, metric, value) in ``scores.json``."""
    images, names = load_images(inputs["images"] / "images")
    prompts = config.get("prompts") or _prompts(inputs["images"], names)
    rows: list[tuple[str, str, str, float]] = []
    for position, method in enumerate(config["metrics"]):
        entry, settings = _method("metrics", method)
        compared = inputs["clean" if entry.method.paired else "reference"]
        reference, _ = load_images(compared / "images")
        context = Context(_suite(transport), _subject(config), reference=reference, prompts=tuple(prompts))
        for metric, values in entry.function(images, settings, context).items():
            rows += [
                (prompt, name, metric, round(float(value), 6))
                for prompt, name, value in zip(prompts, names, values, strict=True)
            ]
        report(position + 1, len(config["metrics"]), {})
    (out / "scores.json").write_text(json.dumps(rows) + "\n", encoding="utf-8")
    return {}


def swap(config: Settings, inputs: Folders, out: Path, transport: Settings, report: Progress) -> dict[str, Any]:
    """A model that takes what a donor learned of words: its whole text encoder, or the identifier's embedding alone.

    The note ``apart`` is how far the identifier's embeddings of the two are apart, of the length of the donor's.
    """
    from redcloak.backbone import Backbone

    machine = _suite(transport).machine
    model, donor = (Backbone.load(inputs[name] / "model", machine) for name in ("model", "donor"))
    tokens = model.tokenizer(str(config["identifier"]), add_special_tokens=False).input_ids
    given, taken = (each.text_encoder.get_input_embeddings().weight.data for each in (donor, model))
    apart = float((given[tokens] - taken[tokens]).norm() / given[tokens].norm())
    if config["part"] == "text_encoder":
        model.text_encoder = donor.text_encoder
    else:
        taken[tokens] = given[tokens]
    model.save(out / "model")
    return {"apart": round(apart, 5)}


STAGES: dict[str, Stage] = {
    "photos": photos,
    "class_images": class_images,
    "protect": protect,
    "purify": purify,
    "personalize": personalize,
    "generate": generate,
    "score": score,
    "swap": swap,
}


def _batches(pictures: Sequence[Picture]) -> Iterator[list[int]]:
    """The rows of pictures that go through a model together: of one size, and no more than memory is meant for."""
    from redcloak.memory import at_once

    for rows in by_size(pictures):
        height, width = pictures[rows[0]].shape[:2]
        size = at_once(height, width)
        yield from (rows[begin : begin + size] for begin in range(0, len(rows), size))


def _recorded(report: Progress) -> tuple[dict[str, Any], Progress]:
    """A progress callback that passes on to ``report``, and its notes: the loss curve, and the last of other values."""
    losses: list[float] = []
    notes: dict[str, Any] = {"losses": losses}

    def follow(done: int, total: int, values: dict[str, float]) -> None:
        if "loss" in values:
            losses.append(round(values["loss"], 6))
        notes.update({name: value for name, value in values.items() if name != "loss"})
        report(done, total, values)

    return notes, follow


def _suite(transport: Settings) -> Suite:
    given = {name: transport[name] for name in ("device", "precision", "memory") if name in transport}
    machine = Machine(**given)
    exact(machine.device)
    return load_suite(str(transport["suite"]), machine)


def _subject(config: Settings) -> Subject:
    return Subject(**config["subject"])


def _method(kind: Kind, method: Settings) -> tuple[registry.Entry, Any]:
    entry = registry.load(kind, str(method["name"]))
    return entry, entry.configure(**method["settings"])


def _prompts(folder: Path, names: list[str]) -> list[str]:
    path = folder / "prompts.json"
    words: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return [words.get(name, "") for name in names]


def _context(config: Settings, inputs: Folders, transport: Settings, progress: Progress) -> Context:
    prior = load_images(inputs["class_images"] / "images")[0] if "class_images" in inputs else None
    decoupling = Decoupling(**config["decoupling"]) if config.get("decoupling") else None
    return Context(_suite(transport), _subject(config), decoupling, class_images=prior, progress=progress)
