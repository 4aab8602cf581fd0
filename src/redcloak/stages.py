"""The stages as pure functions: (resolved configuration, input folders) -> a folder, and notes about it.

Every picture artifact has its pictures in ``images/``. What a stage depends on stands in its configuration: settings,
seed, the version of the method and the fingerprint of the weights; where the photos lie on disk does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from redcloak import registry
from redcloak.api import Context, Kind, Progress, Subject
from redcloak.errors import UserError
from redcloak.images import linf_on_disk, list_images, load_images, save_images, to_tensor
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
    """Copy a split of a subject's photos into the store, fitted to the suite's resolution."""
    from redcloak.subjects import load_subject, pair

    size, split = int(config["size"]), str(config["split"])
    if transport.get("protected"):
        pairs = pair(Path(transport["photos"]), Path(transport["protected"]), size)
        chosen = set(config["names"])
        rows = zip(pairs.names, pairs.protected, strict=True)
        names, pictures = zip(*[row for row in rows if row[0] in chosen], strict=True)
    else:
        subject = load_subject(str(transport["photos"]), size)
        names, pictures = getattr(subject, f"{split}_names"), getattr(subject, split)
    save_images(out / "images", to_tensor(list(pictures)), list(names))
    return {}


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

    Raises:
        UserError: the budget is exceeded on a saved PNG.
    """
    from redcloak.rng import generators

    entry, settings = _method("protect", config["method"])
    clean, names = load_images(inputs["photos"] / "images")
    losses, follow = _recorded(report)
    context = _context(config, inputs, transport, follow)
    streams = generators(int(config["seed"]), entry.name, len(clean))
    files = save_images(out / "images", entry.function(clean, settings, context, streams), names)
    originals = list_images(inputs["photos"] / "images")
    linf = max(linf_on_disk(*pair) for pair in zip(files, originals, strict=True))
    if linf > settings.budget:
        raise UserError(
            f"{entry.name}: the saved PNG is {linf}/255 from the photo, over the budget of {settings.budget}."
        )
    return {"linf": linf, "losses": losses}


def purify(config: Settings, inputs: Folders, out: Path, transport: Settings, report: Progress) -> dict[str, Any]:
    """Pass photos through a chain of purifiers."""
    from redcloak.rng import generators

    images, names = load_images(inputs["photos"] / "images")
    context = _context(config, inputs, transport, report)
    for position, method in enumerate(config["chain"]):
        entry, settings = _method("purify", method)
        streams = generators(int(config["seed"]), f"{position}-{entry.name}", len(images))
        images = entry.function(images, settings, context, streams)
        report(position + 1, len(config["chain"]), {})
    files = save_images(out / "images", images, names)
    before = list_images(inputs["photos"] / "images")
    return {"largest_change": max(linf_on_disk(*pair) for pair in zip(files, before, strict=True))}


def personalize(config: Settings, inputs: Folders, out: Path, transport: Settings, report: Progress) -> dict[str, Any]:
    """Fine-tune the suite's backbone on the photos and save it as a diffusers folder."""
    from redcloak.rng import generator

    entry, settings = _method("personalize", config["method"])
    images, _ = load_images(inputs["photos"] / "images")
    losses, follow = _recorded(report)
    context = _context(config, inputs, transport, follow)
    backbone = context.suite.backbone
    with backbone.borrowed():
        entry.function(images, settings, context, generator(int(config["seed"]), entry.name))
        backbone.save(out / "model")
    return {"losses": losses}


def generate(config: Settings, inputs: Folders, out: Path, transport: Settings, report: Progress) -> dict[str, Any]:
    """Draw pictures from a personalized model, or from the suite's own where no model comes in."""
    from redcloak.backbone import Backbone
    from redcloak.generate import Sampling
    from redcloak.generate import generate as draw

    suite = _suite(transport)
    backbone = Backbone.load(inputs["model"] / "model", suite.device) if "model" in inputs else suite.backbone
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
        compared = inputs["clean" if entry.name == "fidelity" else "reference"]
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


STAGES: dict[str, Stage] = {
    "photos": photos,
    "class_images": class_images,
    "protect": protect,
    "purify": purify,
    "personalize": personalize,
    "generate": generate,
    "score": score,
}


def _recorded(report: Progress) -> tuple[list[float], Progress]:
    """A progress callback that passes on to ``report`` and keeps the loss curve."""
    losses: list[float] = []

    def follow(done: int, total: int, values: dict[str, float]) -> None:
        losses.append(round(values.get("loss", 0.0), 6))
        report(done, total, values)

    return losses, follow


def _suite(transport: Settings) -> Suite:
    return load_suite(str(transport["suite"]), str(transport.get("device", "cpu")))


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
