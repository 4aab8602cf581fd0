"""What ``redcloak bench`` does with finished runs: compare two, claim what survives in one, challenge a claim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from redcloak.cli import options
from redcloak.cli.bench_words import words
from redcloak.cli.text import aligned, defined, document
from redcloak.errors import UserError


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The folder of a finished run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="That of another.")],
    metric: Annotated[str, typer.Option(metavar="NAME", help="The score to compare.")] = "identity_zero",
    json: options.Json = False,
) -> int:
    """Compare two runs: what changed in their matrices, and B minus A in every arm, paired by subject and seed.

    An arm is certain where the signed-rank test over subjects says so, corrected for the number of arms.

    Example: redcloak bench compare bench-quick bench-quick-longer
    """
    from redcloak.bench.compare import compare as compared

    found = compared(a, b, metric)
    if json:
        arms = [
            defined({"arm": cell._asdict(), "a": a, "b": b, "change": vars(each.difference), "p": each.adjusted})
            for cell, each in found.arms.items()
            for b, a in (each.means,)
        ]
        typer.echo(document({"settings": found.settings, "arms": arms, "only_a": found.only_a, "only_b": found.only_b}))
        return 0
    from redcloak.cli.text import interval

    changed = [f"  {name}: {mine} -> {other}" for name, mine, other in found.settings]
    rows = [("arm", "A", "B", "B - A", "")]
    rows += [
        (words(cell), f"{a:.3f}", f"{b:.3f}", interval(each.difference), "certain" if each.differs else "")
        for cell, each in found.arms.items()
        for b, a in (each.means,)
    ]
    lines = ["Changed in the matrix:", *(changed or ["  nothing"]), "", aligned(rows)]
    lines += [each for each in (found.too_few,) if each]
    for name, cells in (("A", found.only_a), ("B", found.only_b)):
        lines += [f"only in {name}: {words(cell)}" for cell in cells]
    typer.echo("\n".join(lines))
    return 0


def claim(
    given: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    protection: Annotated[str | None, typer.Option(metavar="LABEL", help="Claim what survives of it.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="STEPS", help="Where the run has several.")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Of the claim. [PROTECTION-BUDGET-SUITE]")] = None,
    challenge: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A claim that this run lowers; it is written into it.")
    ] = None,
    folder: Annotated[Path, typer.Option("--claims", metavar="DIR", help="The folder of claims.")] = Path("claims"),
    by: Annotated[str, typer.Option(metavar="WHO", help="Who ran it, and where the run can be had.")] = "",
) -> int:
    """Claim what survives in a finished run, or challenge a claim with a run that lowers it.

    Example: redcloak bench claim bench-tiny --protection aspl
    """
    from redcloak.bench import claims
    from redcloak.bench.board import read_board

    if (challenge is None) == (protection is None):
        raise UserError("claim: give --protection LABEL to claim, or --challenge FILE to lower a claim.")
    if challenge is not None:
        lowered = claims.challenge(given, challenge, by)
        typer.echo(f"{lowered.name}: {lowered.stands.survives} stands, by {lowered.stands.red_team}.")
        return 0
    assert protection is not None
    row = read_board(given).standing(protection, budget)
    called = name or f"{protection}-{row.budget}-{read_board(given).suite}".replace(" ", "-").replace("/", "-")
    path = claims.make(given, protection, budget, called, folder, by)
    typer.echo(f"{path}: {row.survives} survives {row.strongest.label}.")
    return 0
