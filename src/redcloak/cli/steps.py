"""The verbs of single steps: each makes one link of the chain into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redcloak.cli import options
from redcloak.cli.text import aligned, document, interval, plain
from redcloak.errors import UserError

if TYPE_CHECKING:
    from redcloak.api import Score
    from redcloak.report.model import Cell


def protect(
    out: options.Out,
    photos: options.Photos = None,
    with_: Annotated[str | None, typer.Option("--with", metavar="NAME", help="The protection.")] = None,
    budget: options.Budget = None,
    suite: options.Suite = None,
    seed: options.Seed = None,
    config: options.File = None,
    settings: options.Set = None,
    device: options.Device = None,
    json: options.Json = False,
    force: options.Force = False,
    resume: options.Resume = False,
) -> None:
    """Add a protective perturbation to photos and measure it on the saved PNG files.

    The photos are fitted to the suite's resolution. A long protection keeps its state beside the output folder once a
    minute; --resume takes it up, with the same result as if nothing had happened. (fsmg, caat and glaze begin anew.)

    Example: redcloak protect photos --with aspl --budget 8 --out protected
    """
    chosen = options.configuration(
        config, settings, "protection",
        photos=photos, protection=with_, budget=budget, suite=suite, seeds=options.one(seed), device=device,
    )  # fmt: skip
    from redcloak import steps
    from redcloak.cli.progress import Screen

    with Screen() as screen:
        linf = steps.protect(chosen, out, watch=screen.watch, force=force, resume=resume)
    _say(json, {"out": str(out), "linf": linf}, _changes(linf, "L_inf"), out)


def purify(
    out: options.Out,
    photos: options.Photos = None,
    with_: Annotated[
        str | None, typer.Option("--with", metavar="CHAIN", help="Purifiers, one after another: restore,upscale.")
    ] = None,
    suite: options.Suite = None,
    seed: options.Seed = None,
    config: options.File = None,
    settings: options.Set = None,
    device: options.Device = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Crop and resize to the suite's resolution first, as an audit does.")
    ] = False,
    json: options.Json = False,
    force: options.Force = False,
) -> None:
    """Pass photos through a chain of purifiers.

    Photos keep their size, whatever it is; nothing is written in place. A restorer of faces leaves a photo in which it
    finds none as it was: how many these are is told.

    Example: redcloak purify protected --with codesr --set noise_level=40 --out purified
    """
    chosen = options.configuration(
        config, settings, "red_team", photos=photos, red_team=with_, suite=suite, seeds=options.one(seed), device=device
    )
    from redcloak import steps
    from redcloak.cli.progress import Screen

    with Screen() as screen:
        change, notes = steps.purify(chosen, out, fit=fit, watch=screen.watch, force=force)
    words = _changes(change, "largest change")
    if faceless := notes.get("pictures_without_face"):
        words += f"\n\nThe restorer found no face in {faceless} of {len(change)} photos, and left them as they were."
    _say(json, {"out": str(out), "linf": change, "notes": notes}, words, out)


def personalize(
    out: options.Out,
    photos: options.Photos = None,
    with_: Annotated[str | None, typer.Option("--with", metavar="NAME", help="The trainer.")] = None,
    cdl: options.Cdl = False,
    suite: options.Suite = None,
    seed: options.Seed = None,
    config: options.File = None,
    settings: options.Set = None,
    device: options.Device = None,
    json: options.Json = False,
    force: options.Force = False,
    resume: options.Resume = False,
) -> None:
    """Fine-tune the suite's model on photos of one subject: a diffusers folder.

    The training keeps its state beside the output folder, at most once a minute; --resume takes it up, with the same
    result as if nothing had happened.

    Example: redcloak personalize purified --cdl --set steps=200 --out model
    """
    chosen = options.configuration(
        config, settings, "trainer", photos=photos, trainer=with_, suite=suite, seeds=options.one(seed), device=device
    )
    from redcloak import steps
    from redcloak.cli.progress import Screen

    with Screen() as screen:
        steps.personalize(chosen, out, cdl=cdl, watch=screen.watch, force=force, resume=resume, warn=options.warn)
    _say(json, {"out": str(out), "prompt": chosen.subject.words.instance_prompt}, "", out)


def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A diffusers folder, or a suite.", show_default=False)],
    out: options.Out,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", metavar="TEXT", help="What to draw. Repeatable.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", metavar="N", help="Pictures of each prompt.")] = None,
    negative: Annotated[str | None, typer.Option(metavar="TEXT", help="The negative prompt.")] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="DDIM steps.")] = None,
    guidance: Annotated[float | None, typer.Option(metavar="X", help="Classifier-free guidance scale.")] = None,
    cdl: options.Cdl = False,
    concepts: Annotated[
        bool, typer.Option("--concepts", help="What each word alone draws: identifier, class noun, noise token.")
    ] = False,
    seed: options.Seed = None,
    config: options.File = None,
    settings: options.Set = None,
    device: options.Device = None,
    json: options.Json = False,
    force: options.Force = False,
) -> None:
    """Draw pictures from a model.

    With --concepts a folder for each word, and concepts.png with all of them side by side.

    Example: redcloak generate model --prompt "a photo of sks person" -n 16 --out pictures
    """
    chosen = options.configuration(
        config, settings,
        photos=model, prompts=prompts, images_per_prompt=count, sampling_steps=steps, guidance=guidance,
        seeds=options.one(seed), device=device,
    )  # fmt: skip
    from redcloak import drawing
    from redcloak.cli.progress import Screen

    if concepts:
        if prompts or negative is not None or cdl:
            raise UserError("--concepts asks in words of its own: leave --prompt, --negative and --cdl.")
        with Screen() as screen:
            asked = drawing.concepts(chosen, model, out, watch=screen.watch, force=force)
        _say(json, {"out": str(out), "prompts": asked}, aligned([*asked.items()]), out)
        return
    with Screen() as screen:
        drawn = drawing.generate(chosen, model, out, negative=negative, cdl=cdl, watch=screen.watch, force=force)
    _say(json, {"out": str(out), "prompts": drawn}, f"{len(drawn)} pictures", out)


def score(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="A folder of pictures.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="Where to write the table (parquet).", show_default=False),
    ],
    reference: Annotated[
        str | None, typer.Option(metavar="PHOTOS", help="Clean photos of the subject, or drawn:N.")
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="By default those of an audit that apply. Repeatable."),
    ] = None,
    suite: options.Suite = None,
    config: options.File = None,
    settings: options.Set = None,
    device: options.Device = None,
    json: options.Json = False,
    force: options.Force = False,
) -> None:
    """Score pictures against photos of the subject.

    Example: redcloak score pictures --reference photos --out scores.parquet
    """
    chosen = options.configuration(config, settings, asked="--reference", photos=reference, suite=suite, device=device)
    from redcloak import steps
    from redcloak.cli.progress import Screen

    with Screen() as screen:
        row, scores = steps.score(chosen, images, out, metrics=metrics or (), watch=screen.watch, force=force)
    cells = row.generated or row.photos
    _say(
        json,
        {"out": str(out), "scores": {name: plain(cell) for name, cell in cells.items()}},
        _means(cells, scores),
        out,
    )


def _means(cells: Mapping[str, Cell], scores: Mapping[str, Score]) -> str:
    rows = [("score", "mean", "pictures", "undefined", "better")]
    for name, cell in cells.items():
        score = scores[name]
        rows.append((score.title, interval(cell.interval), str(cell.n), str(cell.undefined), score.better))
    return aligned(rows)


def _changes(changes: dict[str, int], title: str) -> str:
    return aligned([("picture", title), *((name, f"{value}/255") for name, value in changes.items())])


def _say(machine: bool, values: object, words: str, out: Path) -> None:
    """The result, for a machine or for a person, on stdout."""
    typer.echo(document(values) if machine else f"{words}\n\n{out}".lstrip())
