"""The flags that verbs share, and how flags, a YAML file and ``--set`` become one configuration.

A flag that was not given is None and changes nothing: every default stands in :class:`redcloak.config.AuditConfig`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redcloak.errors import UserError, unknown

if TYPE_CHECKING:
    from redcloak.config import AuditConfig

PHOTOS = "A folder of photos of one subject, or drawn:N for the N-th person of the portrait generator."
SEVERAL = "A folder of photos for each subject, or drawn:N for the N-th person of the portrait generator."

Photos = Annotated[str | None, typer.Argument(metavar="PHOTOS", help=PHOTOS, show_default=False)]
Subjects = Annotated[list[str] | None, typer.Argument(metavar="PHOTOS", help=SEVERAL, show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to write.", show_default=False)]
Suite = Annotated[str | None, typer.Option(metavar="NAME", help="tiny, sd15, sd21, or a folder, also of diffusers.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Of every random stream.")]
Budget = Annotated[float | None, typer.Option(metavar="STEPS", help="L_inf in 8-bit steps (/255) of the saved PNG.")]
Workers = Annotated[int | None, typer.Option(metavar="N", help="Stages that run at the same time.")]
Threads = Annotated[int | None, typer.Option(metavar="N", help="Threads of each worker; by default cores / workers.")]
Executor = Annotated[
    str | None, typer.Option(metavar="NAME", help="Where stages run: local, ray, or ray:ADDRESS of a cluster.")
]
Place = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="PLACE", help="Where results are kept and shared: a folder, s3:// or gs://. [OUT/store]"
    ),
]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps.")]
File = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML, as an audit writes it, or paper or tiny; flags override it."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of the method or of the run; METHOD.NAME=VALUE of another method. Repeatable.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a run of the same command was killed.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Write into a folder that something else has filled.")]
Cdl = Annotated[bool, typer.Option("--cdl", help="With contrastive decoupling learning.")]

PARTS = ("subject", "decoupling")


def configuration(
    file: Path | None, settings: list[str] | None, main: str | None = None, asked: str = "PHOTOS", **flags: Any
) -> AuditConfig:
    """The configuration of a verb: the file, overridden by the flags that were given, overridden by ``--set``.

    ``main`` is the field whose method takes the settings that name no method; ``asked`` what the photos are called.
    """
    from redcloak.config import AuditConfig
    from redcloak.parsing import validate

    values = _written(file) if file else {}
    values |= {name: value for name, value in flags.items() if value is not None}
    config = validate(AuditConfig, {"photos": ""} | values, str(file or "the command line"))
    if not config.photos:
        raise UserError(f"{asked} is missing: give a folder of photos, drawn:N, or a --config that names them.")
    config = _with_settings(config, settings or [], main)
    if config.device != "cpu":
        from redcloak.doctor import check_device

        check_device(config.device)
    return config


def _written(file: Path) -> dict[str, Any]:
    """The values of a YAML file, or of a shipped protocol where a bare name is no file here."""
    from redcloak import protocols
    from redcloak.parsing import read_yaml

    bare = not file.suffix and file.parent == Path() and not file.exists()
    return protocols.settings(file.name) if bare else read_yaml(file)


def _with_settings(config: AuditConfig, pairs: list[str], main: str | None) -> AuditConfig:
    """``--set`` in its three forms: a field, a part's field (subject.class_noun), or a method's knob."""
    from redcloak import registry
    from redcloak.config import AuditConfig
    from redcloak.parsing import validate

    values = config.model_dump(mode="json")
    chains = [*values["purifiers"], values["red_team"], [values["protection"]], [values["trainer"]]]
    methods = [choice for chain in chains for choice in chain]
    mine = [values[main]] if main in ("protection", "trainer") else values[main] if main else []
    for name, value in _parse(pairs).items():
        owner, dot, knob = name.rpartition(".")
        named = [choice for choice in methods if choice["name"] == owner]
        if owner in PARTS:
            values[owner][knob] = value
        elif named:
            for choice in named:
                choice["settings"][knob] = value
        elif owner in registry.names("metrics"):
            values["metric_settings"].setdefault(owner, {})[knob] = value
        elif dot:
            raise unknown("method in --set", owner, {*PARTS, *(choice["name"] for choice in methods)})
        elif name in values:
            values[name] = value
        elif mine:
            _only(mine, name)["settings"][name] = value
        else:
            raise unknown("setting", name, values)
    return validate(AuditConfig, values, "--set")


def _only(choices: list[dict[str, Any]], name: str) -> dict[str, Any]:
    if len(choices) > 1:
        owners = " or ".join(f"{choice['name']}.{name}=..." for choice in choices)
        raise UserError(f"--set {name}: say whose it is: {owners}")
    return choices[0]


def _parse(pairs: list[str]) -> dict[str, Any]:

    from redcloak.parsing import parse_settings

    return parse_settings(pairs)


def warn(words: str) -> None:
    """Say on stderr what does not stop the work."""
    typer.echo(f"warning: {words}", err=True)


def numbers(text: str | None, flag: str) -> list[int] | None:
    """``0,1`` -> ``[0, 1]``."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{flag} {text!r}: write whole numbers with commas, as in 0,1.") from None


def one(seed: int | None) -> list[int] | None:
    """The seeds of a verb that takes a single one."""
    return None if seed is None else [seed]


def chains(texts: list[str] | None) -> list[str] | None:
    """``["jpeg;restore,upscale"]`` -> ``["jpeg", "restore,upscale"]``; one empty text means none at all."""
    return None if texts is None else [chain for text in texts for chain in text.split(";") if chain.strip()]
