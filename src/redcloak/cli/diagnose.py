"""``redcloak diagnose``: where a protection moves photos in CLIP's space, and what a model learns of them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redcloak.cli import options
from redcloak.cli.text import aligned, document, plain

if TYPE_CHECKING:
    from redcloak.diagnose.model import Diagnosis

Clean = Annotated[
    str | None, typer.Option(metavar="CLEAN", help="The clean photos that PHOTOS were made from, or drawn:N.")
]
Purify = Annotated[
    list[str] | None,
    typer.Option(
        "--purify",
        metavar="CHAIN",
        help='A group for each chain, as in "jpeg;restore,upscale". Repeatable; "" for none.',
    ),
]
Controls = Annotated[
    list[str] | None,
    typer.Option(
        "--control",
        metavar="NAME",
        help="What is added to the clean photos in the same size: random_noise (the default), shuffled and "
        'transplant (of what PHOTOS were protected with), or a protection. Repeatable; "" for none.',
    ),
]
Clips = Annotated[
    list[Path] | None,
    typer.Option("--clip", metavar="FOLDER", help="A transformers CLIP beside the suite's own. Repeatable."),
]
Maps = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="NAME", help='pca, svd, tsne (all three by default), umap. Repeatable; "" for none.'),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="MODEL", help="A personalized model: draw its concepts, show its attention. Repeatable."
    ),
]
Curve = Annotated[
    int,
    typer.Option(
        "--curve", metavar="STEPS", min=0, help="Train clean, protected, CDL and purified + CDL; score on the way."
    ),
]
ClassPhotos = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Photos of the class; by default the suite's model draws class_images."),
]
Size = Annotated[int | None, typer.Option(metavar="PIXELS", help="Side of the photos; by default the suite's.")]


def diagnose(
    out: options.Out,
    photos: options.Photos = None,
    clean: Clean = None,
    purify: Purify = None,
    control: Controls = None,
    clip: Clips = None,
    map_: Maps = None,
    model: Models = None,
    curve: Curve = 0,
    class_photos: ClassPhotos = None,
    size: Size = None,
    suite: options.Suite = None,
    seed: options.Seed = None,
    config: options.File = None,
    settings: options.Set = None,
    device: options.Device = None,
    json: options.Json = False,
    force: options.Force = False,
) -> None:
    """Measure how far protected photos have moved from their prompt, and what brings them back.

    Beside each other: the clean photos, the protected ones, these after purifiers, and the clean ones with a control
    perturbation of the same size. Writes diagnose.html, diagnose.json and scores.parquet.

    Example: redcloak diagnose protected --clean photos --out diagnosis
    """
    chosen = options.configuration(
        config, settings,
        photos=photos, purifiers=options.chains(purify), suite=suite, seeds=options.one(seed),
        device=device,
    )  # fmt: skip
    from redcloak.cli.progress import Screen
    from redcloak.diagnose import run
    from redcloak.errors import UserError

    if not clean:
        raise UserError("--clean is missing: give the clean photos that PHOTOS were made from, or drawn:N.")
    asked = run.Asked(
        clean,
        controls=_names(control, run.Asked.controls),
        clips=tuple(clip or ()),
        maps=_names(map_, run.MAPS),
        members=class_photos,
        size=size,
        models=tuple(model or ()),
        curve=curve,
    )
    command = shlex.join(["redcloak", *sys.argv[1:]])
    with Screen() as screen:
        found = run.diagnose(chosen, asked, out, command=command, watch=screen.watch, force=force)
    if json:
        typer.echo(document({"out": str(out), **plain(found)}))
        return
    typer.echo(_told(found) + f"\n{out / 'diagnose.html'}")


def _told(found: Diagnosis) -> str:
    """What was found, its tables and its notes."""
    from redcloak.diagnose.misalignment import OF_DECODED, OF_PHOTOS
    from redcloak.diagnose.model import extracted, findings, table, trained

    said = findings(found)
    for name in found.clips:
        for title, scores in (("photos", OF_PHOTOS), ("after the autoencoder", OF_DECODED)):
            if any(line.score in scores for line in found.lines):
                said.append(f"\n{name}, {title}\n{aligned(table(found, name, scores))}")
    for title, body in (("what the models draw", extracted(found)), ("while they train", trained(found))):
        if len(body) > 1:
            said.append(f"\n{title}\n{aligned(body)}")
    return "\n".join(said) + "\n" + "".join(f"\nnote: {note}" for note in found.notes)


def _names(given: list[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """What was asked for; an empty name asks for nothing."""
    return default if given is None else tuple(name for name in given if name)
