"""The command line. Verbs parse, build a configuration and call; what they need is imported when they run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from redcloak import __version__
from redcloak.cli.audit import audit
from redcloak.cli.bench import app as bench
from redcloak.cli.diagnose import diagnose
from redcloak.cli.lookup import doctor, list_, show
from redcloak.cli.steps import generate, personalize, protect, purify, score
from redcloak.errors import UserError

INTERRUPTED = 130
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}

app = typer.Typer(
    name="redcloak",
    help="Does a protective perturbation on photos hold? Protect, purify, personalize, generate, score, report.",
    epilog="Start with: redcloak audit drawn:0 --out audit",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (audit, protect, purify, personalize, generate, score, diagnose):
    app.command()(verb)
app.command("list")(list_)
app.command()(show)
app.command()(doctor)
app.add_typer(bench)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"redcloak {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on ``arguments`` (those of the process): the exit status.

    0; 1 where something broke; 2 for a mistake that the user can mend; 3 for a red flag under ``--strict``; 130 after
    Ctrl-C.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if os.environ.get("REDCLOAK_ONLINE") != "1":
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        status = app(args=arguments, prog_name="redcloak", standalone_mode=False) or 0
        sys.stdout.flush()
    except UserError as error:
        return _complain(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough; nothing may be flushed at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _failed(error)
    if status == INTERRUPTED:
        return _complain("interrupted; run the same command again to go on.", status)
    return int(status)


def _failed(error: Exception) -> int:
    """Tell what is no :class:`UserError`: wrong usage in a line, a failed stage by its trace; the rest is raised."""
    if hasattr(error, "format_message"):  # the parser's errors, which typer takes from click or brings along
        return _complain(" ".join(error.format_message().split()), 2)
    from redcloak.runtime.execute import StageError

    if isinstance(error, StageError):
        return _complain(str(error), 1)
    raise error


def _complain(message: str, status: int) -> int:
    typer.echo(f"error: {message}", err=True)
    return status
