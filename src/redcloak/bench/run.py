"""Run a matrix: what is missing is made, what fails stops nobody else, and the results are written anew.

The folder of a run holds ``matrix.yaml`` (every default resolved), ``results.parquet``, ``board.json``,
``leaderboard.html``, and ``store/`` where no other store is named.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from redcloak import __version__
from redcloak.bench.ahead import check_models, check_people, check_prompts
from redcloak.bench.board import Board, Failure, kept_board
from redcloak.bench.folder import MATRIX, only_driver
from redcloak.bench.grid import Arm, Matrix
from redcloak.bench.plan import MatrixPlan, plan
from redcloak.bench.ranking import board
from redcloak.bench.results import Results
from redcloak.errors import UserError
from redcloak.images import check_writable
from redcloak.nodes import STAGES
from redcloak.report.table import write_whole
from redcloak.runtime.execute import Event, run
from redcloak.runtime.matrix import Graph, Node
from redcloak.runtime.places import existing, open_store
from redcloak.runtime.store import Artifact, Store

Overwrite = Literal["missing", "retry", "force", "read-only"]
WAYS: tuple[Overwrite, ...] = get_args(Overwrite)
FILES = ("results.parquet", "board.json", "leaderboard.html")


def silent(event: Event) -> None:
    """Follow nothing."""


@dataclass(frozen=True)
class _Found:
    """What a report is of: the finished arms, what failed, and the digest of both."""

    arms: list[Arm]
    failures: list[Failure]
    of: str


@dataclass
class Bench:
    """A matrix, the folder of its run, and the store."""

    matrix: Matrix
    out: Path
    store: Store

    def plan(self, workers: int, overwrite: Overwrite = "missing") -> MatrixPlan:
        """What a run would cost."""
        targets = self.failed_before() if overwrite == "retry" else None
        return plan(self.matrix, self.store, workers, self.store.root, targets, overwrite == "force")

    def run(
        self,
        overwrite: Overwrite = "missing",
        workers: int = 2,
        executor: str = "local",
        on_event: Callable[[Event], None] = silent,
        threads: int | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> Board:
        """Make what ``overwrite`` says and write the results of all arms that are finished.

        ``warn`` is told which photos of a subject seem to show someone else than the rest; the board has a red flag.

        ``missing`` makes what is not there, what failed before included; ``retry`` only what failed and what waits for
        it; ``force`` everything anew, what is there being deleted once nothing speaks against the run; ``read-only``
        nothing.

        Raises:
            UserError: another run is at work in the same folder (with ``force``: in the same store), the store cannot
                be used, no photo of a subject shows a face, or no arm is finished.
        """
        if overwrite == "read-only":
            return self.report()
        check_writable(self.out)
        with only_driver(self.out), self.store.at_work():
            targets = self._checked_targets(overwrite, warn)
            write_whole(self.out / MATRIX, self.matrix.config.text().encode())
            run(
                self.matrix.graph,
                self.store,
                STAGES,
                targets,
                workers,
                on_event,
                executor=executor,
                threads=threads,
                keep_going=True,
                anew=overwrite == "force",
            )
            found = self._found()
            return self._kept(found) or self._write(found)

    def _checked_targets(self, overwrite: Overwrite, warn: Callable[[str], None]) -> list[Node]:
        """What is to be there after a run; what can be wrong with its prompts and people is found before any work."""
        self.matrix.digests.keep()
        targets = self.failed_before() if overwrite == "retry" else self.matrix.targets()
        there = frozenset[str]() if overwrite == "force" else self.store.keys()
        if missing := {node.key for node in targets} - there:
            check_prompts(self.matrix.config)
            check_people(self.matrix, missing, warn)
        return targets

    def failed_before(self) -> list[Node]:
        """The targets of the arms of which a stage failed last time."""
        waiting = behind(self.matrix.graph, {each.key for each in self.store.failures.all()})
        return [node for node in self.matrix.targets() if node.key in waiting]

    def finished(self) -> list[Arm]:
        """The arms of which everything is there that a report reads."""
        keys = self.store.keys()
        return [arm for arm in self.matrix.arms if all(node.key in keys for node in arm.targets)]

    def failures(self) -> list[Failure]:
        """What failed of this matrix and has not succeeded since, inputs before what needs them."""
        found = {each.key: each for each in self.store.failures.all()}
        if not found:
            return []
        there = self.store.keys()  # a kill, or another machine, may leave a failure that is mended
        mine = (node.key for node in self.matrix.graph.order())
        failed = (found[key] for key in mine if key in found and key not in there)
        return [Failure(label=each.label, key=each.key, reason=each.reason) for each in failed]

    def report(self, anew: bool = False) -> Board:
        """Write the results, the board and the page of what is there; nothing where they say that already.

        Raises:
            UserError: no arm is finished, or a run is at work in the same folder.
        """
        found = self._found()
        if not anew and (kept := self._kept(found)):
            return kept
        check_writable(self.out)
        with only_driver(self.out):
            return self._write(found)

    def _found(self) -> _Found:
        arms, failures = self.finished(), self.failures()
        if not arms:
            raise UserError(f"store {self.store.uri}: {_nothing(self.matrix.config.name, failures)}")
        return _Found(arms, failures, _digest(self.matrix, arms, failures, self.store))

    def _kept(self, found: _Found) -> Board | None:
        """The board that is there, where it says what was found and nothing is missing beside it."""
        return kept_board(self.out, found.of) if all((self.out / name).is_file() for name in FILES) else None

    def _write(self, found: _Found) -> Board:
        from redcloak.bench.page import page

        results = Results.of(self.matrix, self._read, found.arms)
        made = board(self.matrix, results, self.store, found.arms, found.failures)
        made = made.model_copy(update={"of": found.of})
        results.write(self.out / "results.parquet")
        write_whole(
            self.out / "leaderboard.html", page(made, found.arms, self._read, self.out, self.store.uri).encode()
        )
        write_whole(self.out / "board.json", made.to_json().encode())
        return made

    def _read(self, node: Node) -> Artifact:
        return self.store.read(node.key, node.label)


def prepare(matrix: Matrix, out: Path, store: str | Path | None, read_only: bool = False) -> Bench:
    """A run that is set up: its methods' models are there, and its folders may be written; ``store`` may be a URI."""
    kept = store or out / "store"
    if not read_only:
        check_models(matrix)
        check_writable(out)
    return Bench(matrix, out, existing(kept) if read_only else open_store(kept))


def behind(graph: Graph, keys: set[str]) -> set[str]:
    """These keys and those of every node that needs one of them."""
    found = set(keys)
    for node in graph.order():
        if any(key in found for key in node.input_keys.values()):
            found.add(node.key)
    return found


def _nothing(name: str, failures: Sequence[Failure]) -> str:
    """Why no arm is finished, and what to do."""
    if not failures:
        return f"no arm of {name} is finished; run it first."
    count = f"{len(failures)} stage{'s' * (len(failures) > 1)} failed"
    return f"no arm of {name} is finished, {count}; first {failures[0].label}: {failures[0].reason}"


def _digest(matrix: Matrix, arms: list[Arm], failures: list[Failure], store: Store) -> str:
    """Of everything that a board says, but for times and versions of libraries."""
    parts = [__version__, matrix.config.text(), str(len(matrix.arms)), json.dumps(matrix.strangers, sort_keys=True)]
    parts += [f"{arm.axes} {arm.scores.key} {arm.photo_scores and arm.photo_scores.key}" for arm in arms]
    # Under the keys that were there, `force` may have made something else.
    parts += [f"{key} {_files(store, key)}" for key in dict.fromkeys(key for arm in arms for key in _scores(arm))]
    parts += [f"failed {each.key} {each.reason}" for each in failures]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _scores(arm: Arm) -> Iterator[str]:
    return (node.key for node in (arm.scores, arm.photo_scores) if node is not None)


def _files(store: Store, key: str) -> str:
    """The digests of the files of an artifact, as its manifest has them."""
    found = store.find(key)
    return json.dumps(found.manifest.files, sort_keys=True) if found else "none"
