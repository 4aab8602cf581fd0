"""Drawing from a model, a personalized one or a suite's own: pictures of prompts, and of each of its words alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redcloak.api import Machine, Progress
from redcloak.config import AuditConfig
from redcloak.errors import UserError, unknown
from redcloak.images import save_images, to_png_bytes, to_uint8
from redcloak.outputs import deliver, read_record, workspace
from redcloak.parts import PICKLES
from redcloak.prompts import NONE, Decoupling, check_lengths, check_named, check_words
from redcloak.steps import PROMPTS, Watch, unwatched
from redcloak.suite import load as load_suite
from redcloak.suite import names as suite_names

if TYPE_CHECKING:
    from torch import Tensor

    from redcloak.backbone import Backbone


def generate(
    config: AuditConfig,
    model: str,
    out: Path,
    *,
    negative: str | None = None,
    cdl: bool = False,
    watch: Watch = unwatched,
    force: bool = False,
) -> dict[str, str]:
    """Draw ``config.images_per_prompt`` pictures of each prompt from ``model``: a diffusers folder, or a suite.

    Returns:
        File name -> prompt, as also in ``prompts.json``: the plain one, without what decoupling adds when sampling.

    Raises:
        UserError: the model is absent, damaged or a pickle, a prompt is longer than its text encoder reads, with
            ``cdl`` a prompt does not name the subject, or whatever is wrong with the output folder.
    """
    decoupling = as_trained(model, config.decoupling) if cdl else NONE
    prompts = [prompt.replace("{subject}", config.subject.words.name) for prompt in config.prompts]
    asked = [decoupling.sampling(prompt) for prompt in prompts]
    pen = _Pen(config, model, decoupling, decoupling.negative if negative is None else negative)
    pen.check(asked)
    if cdl:
        _check_decoupled(config, model, pen.backbone, decoupling, prompts)
    with workspace(out, "generate", [model], force=force) as space:
        files = save_images(space / "images", pen.draw(asked, watch("generate")))
        plain = {file.name: prompts[index // pen.count] for index, file in enumerate(files)}
        _write_prompts(space / "images", plain)
        deliver(space / "images", out, "generate", pen.facts(asked))
    return plain


def concepts(
    config: AuditConfig, model: str, out: Path, *, watch: Watch = unwatched, force: bool = False
) -> dict[str, str]:
    """Draw what ``model`` makes of each of its words alone: a folder of pictures for each, and a labelled sheet.

    Returns:
        Name of the folder -> prompt. The sheet is ``concepts.png``.

    Raises:
        UserError: as :func:`generate`.
    """
    from redcloak import concepts as extraction

    decoupling = as_trained(model, config.decoupling)
    asked = extraction.prompts(config.subject.words, decoupling)
    pen = _Pen(config, model, decoupling)
    pen.check(asked.values())
    with workspace(out, "generate", [model], force=force) as space:
        pictures, rows = pen.draw(list(asked.values()), watch("concepts")), []
        for index, (name, prompt) in enumerate(asked.items()):
            own = pictures[index * pen.count : (index + 1) * pen.count]
            files = save_images(space / "all" / name, own)
            _write_prompts(space / "all" / name, {file.name: prompt for file in files})
            rows.append((extraction.TITLES[name], prompt, list(to_uint8(own))))
        (space / "all" / extraction.SHEET).write_bytes(to_png_bytes(extraction.sheet(rows)))
        deliver(space / "all", out, "generate", pen.facts(asked))
    return asked


class _Pen:
    """A model with how it samples: every prompt is drawn as often, from the same seed."""

    def __init__(self, config: AuditConfig, model: str, decoupling: Decoupling, negative: str = "") -> None:
        from redcloak.generate import Sampling

        self.model, self.count, self.seed = model, config.images_per_prompt, config.seeds[0]
        self.sampling = Sampling(config.sampling_steps, config.guidance or guidance_of(model), negative)
        self.backbone = backbone_of(model, config.machine)
        _check_new_words(model, self.backbone, decoupling)

    def check(self, prompts: Iterable[str]) -> None:
        """Refuse prompts, the negative one among them, whose end the text encoder would not read."""
        check_lengths(self.backbone.tokenizer, (*prompts, self.sampling.negative))

    def draw(self, prompts: Sequence[str], progress: Progress) -> Tensor:
        from redcloak.generate import generate as draw

        return draw(self.backbone, prompts, self.count, self.seed, self.sampling, progress=progress)[0]

    def facts(self, prompts: object) -> dict[str, Any]:
        """What drew the pictures, for the record beside them."""
        own = {"count": self.count, "seed": self.seed, "sampling": asdict(self.sampling)}
        return {"model": self.model, "prompts": prompts, **own}


def _write_prompts(folder: Path, prompts: dict[str, str]) -> None:
    (folder / PROMPTS).write_text(json.dumps(prompts, indent=1) + "\n", encoding="utf-8")


def as_trained(model: str, decoupling: Decoupling) -> Decoupling:
    """Decoupling with the new words that a model of ours was trained with, which nobody should have to repeat."""
    trained = read_record(Path(model)).get("config", {}).get("decoupling") or {}
    kept = {name: trained[name] for name in ("tokens", "count") if name in trained}
    return Decoupling(**(decoupling.model_dump() | kept | {"train_suffix": True})) if kept else decoupling


def _check_decoupled(
    config: AuditConfig, model: str, backbone: Backbone, decoupling: Decoupling, prompts: Sequence[str]
) -> None:
    """Refuse what an audit refuses; the subject may be called as configured, or as a model of ours was trained to."""
    own = config.subject.identifier
    trained = (read_record(Path(model)).get("config", {}).get("subject") or {}).get("identifier", own)
    for prompt in prompts:
        check_named(prompt, own, trained)
    check_words(backbone.tokenizer, config.subject.words, decoupling, prompts)


def _check_new_words(model: str, backbone: Backbone, decoupling: Decoupling) -> None:
    unknown_words = [word for word in decoupling.words if word not in backbone.tokenizer.get_vocab()]
    if unknown_words:
        raise UserError(
            f"model {model!r} has no word {unknown_words[0]}: personalize it with the same decoupling.tokens and "
            "decoupling.count, or leave them."
        )


def guidance_of(model: str) -> float:
    """The guidance that suits a model: that of its suite, which a folder made by ``personalize`` remembers."""
    path = Path(model)
    suite = read_record(path).get("suite", "") if path.is_dir() else model
    if (path / "suite.yaml").is_file():
        suite = model
    return load_suite(suite).spec.guidance if suite in suite_names() or Path(suite, "suite.yaml").is_file() else 7.5


def backbone_of(model: str, machine: Machine) -> Backbone:
    """The model of a suite, or of a diffusers folder."""
    from redcloak.backbone import Backbone

    path = Path(model)
    if model in suite_names() or (path / "suite.yaml").is_file():
        return load_suite(model, machine).backbone
    if path.is_file():
        cause = "a pickle, which can run code when it is read" if path.suffix in PICKLES else "a single file"
        raise UserError(f"model {model!r} is {cause}; convert it to a diffusers folder of safetensors.")
    if not path.is_dir():
        raise unknown("model", model, suite_names(), "Or give a diffusers folder.")
    try:
        return Backbone.load(path, machine)
    except UserError:
        raise
    except Exception as error:  # loaders raise anything on a damaged folder
        raise UserError(f"model {model!r} cannot be read: {type(error).__name__}: {error}.") from None
