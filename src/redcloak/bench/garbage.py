"""What nobody needs any more of a store: found, told, and deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from redcloak.bench.config import is_study, load, protocol_of
from redcloak.bench.digests import Digests
from redcloak.bench.folder import MATRIX, PHOTOS, STUDY, only_driver, run_folder
from redcloak.bench.grid import Matrix
from redcloak.errors import UserError
from redcloak.runtime.matrix import Graph, Node
from redcloak.runtime.store import Store

MODELS = ("personalize", "swap")  # the stages that make models
Config = TypeVar("Config")


@dataclass(frozen=True)
class Garbage:
    """What may be deleted: artifacts by key with their stage and size, what failed and killed runs left, old failures.

    ``needed`` is every key that is needed, there or not.
    """

    artifacts: tuple[tuple[str, str, int], ...]
    kept: int
    leftovers: int
    failures: tuple[str, ...]
    needed: frozenset[str]

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(size for _, _, size in self.artifacts) + self.leftovers

    @property
    def stages(self) -> dict[str, tuple[int, int]]:
        """How many artifacts of each stage, and their bytes."""
        counts: dict[str, tuple[int, int]] = {}
        for _, stage, size in self.artifacts:
            count, weight = counts.get(stage, (0, 0))
            counts[stage] = count + 1, weight + size
        return counts


class Wanting(Protocol):
    """A matrix, or a study: something that needs nodes."""

    @property
    def graph(self) -> Graph:
        """The graph that they are in."""
        ...

    def targets(self) -> list[Node]:
        """The nodes that its report reads."""
        ...


def clean(
    store: Store,
    names: Sequence[str],
    out: Path | None = None,
    subjects: Sequence[str] | None = None,
    models: bool = False,
    delete: bool = False,
) -> Garbage:
    """Find what no matrix or study of ``names`` needs, nor the last run in the folder of each, and ``delete`` it.

    ``subjects`` are those of the matrices, in place of their own; ``models``: see :func:`garbage`.

    Raises:
        UserError: a run is at work in the store or in a folder, or nobody can tell what one of them needs.
    """
    folders = {name: run_folder(protocol_of(name), out) for name in names}
    with ExitStack() as stack:
        for folder in set(folders.values()) if delete else ():
            if folder.is_dir():
                stack.enter_context(only_driver(folder))
        wanted = (each for name, folder in folders.items() for each in _wanted(name, folder, store, subjects))
        found = garbage(store, wanted, models)
        if delete:
            collect(store, found)
    return found


def _wanted(name: str, folder: Path, store: Store, subjects: Sequence[str] | None) -> list[Wanting]:
    """What a matrix or a study needs, and what the last run in its folder does: its subjects may be others."""
    if is_study(name):
        return _study(name, folder, store)
    photos = Digests(folder / PHOTOS)
    config = load(name, subjects=subjects or None)
    return _with_last_run(config, folder / MATRIX, load, lambda each: Matrix.of(each, photos))


def _study(name: str, folder: Path, store: Store) -> list[Wanting]:
    """The same of a study, which looks into its own folder for what photos were called."""
    from redcloak.diagnose.study import load as load_study
    from redcloak.diagnose.study_run import Study

    own = folder if (folder / STUDY).is_file() else run_folder(protocol_of(name), None)
    if not (own / "causal.json").is_file():
        raise UserError(
            f"{name}: {own} holds no finished study, so nobody can tell what it needs; run it, or use --out."
        )
    expand = partial(Study.prepare, out=own, store=store.uri, read_only=True)
    return _with_last_run(load_study(name), own / STUDY, load_study, expand)


def _with_last_run(
    config: Config, path: Path, load: Callable[[str], Config], expand: Callable[[Config], Wanting]
) -> list[Wanting]:
    """What ``config`` stands for, and what the one does that the last run has left at ``path``, if any."""
    found = [expand(config)]
    if not path.is_file():
        return found
    try:
        last = load(str(path))
        return found if last == config else [*found, expand(last)]
    except UserError as error:
        raise UserError(
            f"{path}: nobody can tell what the last run there needs: {error} Delete the file if nothing of it is."
        ) from None


def garbage(store: Store, matrices: Iterable[Wanting], models: bool = False) -> Garbage:
    """What no matrix or study needs; with ``models`` also personalized models that nothing is to be made of any more.

    A failure is old where nobody needs its key, or the key is there by now.
    """
    there = store.keys()
    needed = frozenset(key for matrix in matrices for key in _needs(matrix, there, models))
    artifacts = []
    for key in sorted(there - needed):
        found = store.find(key)
        artifacts.append((key, found.manifest.stage if found else "damaged", store.size(key)))
    failures = tuple(each.key for each in store.failures.all() if each.key not in needed or each.key in there)
    return Garbage(tuple(artifacts), len(there & needed), store.leftovers(needed), failures, needed)


def _needs(matrix: Wanting, there: frozenset[str], models: bool) -> set[str]:
    """The keys behind a report; with ``models`` without the models that no run would make or read any more."""
    targets = matrix.targets()
    nodes, _ = matrix.graph.split(lambda _: None, targets)
    missing, present = matrix.graph.split(lambda key: key if key in there else None, targets)
    used = {node.key for node in (*missing, *present)}
    return {node.key for node in nodes if not (models and node.stage in MODELS) or node.key in used}


def collect(store: Store, found: Garbage) -> None:
    """Delete it.

    Raises:
        UserError: a run is at work in the store.
    """
    store.forget(key for key, _, _ in found.artifacts)
    store.clear(found.needed)
    for key in found.failures:
        store.failures.forget(key)
