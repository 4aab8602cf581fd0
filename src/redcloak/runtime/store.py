"""Content-addressed artifacts: a folder per result, named by everything that can change its content.

An artifact is its files and a ``stage.json``. It is made in a temporary folder of the same file system and
renamed into place, so that a kill at any moment leaves nothing half-done; it is verified when it is read, and
a damaged one is set aside and counts as absent. The folders are private: these are pictures of people.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redcloak.errors import UserError
from redcloak.runtime import formats
from redcloak.runtime.contents import damage, files_of, flush, settle, weight
from redcloak.runtime.failures import Failures
from redcloak.runtime.lease import held, lease, machine, sweep
from redcloak.runtime.leftovers import left, sweep_drafts
from redcloak.runtime.manifest import MANIFEST, Manifest, artifact_key, libraries, plain, read, write
from redcloak.runtime.refused import FULL, REFUSED, StoreError, explained


@dataclass(frozen=True)
class Artifact:
    """A finished result: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def key(self) -> str:
        """The key it is stored under."""
        return self.manifest.key


@dataclass
class Draft:
    """A result in the making: an empty folder to fill, and what the manifest is to say about it."""

    folder: Path
    notes: dict[str, Any] = field(default_factory=dict)
    peak_memory_mb: float | None = None


class Store:
    """The artifacts under one folder, made where it is missing; any number of processes may share it.

    Opening a store sweeps what killed processes left half-done. With ``read_only`` nothing is made, swept or moved, so
    that a store on a disk that cannot be written may be read.

    Raises:
        StoreError: the folder cannot be used, or a newer redcloak made the store.
    """

    def __init__(self, root: Path, read_only: bool = False) -> None:
        self.root, self.read_only = Path(root).absolute(), read_only
        folders = (self.root / name for name in ("artifacts", "tmp", "quarantine", "leases"))
        self._artifacts, self._tmp, self._quarantine, self._leases = folders
        self.failures = Failures(self.root / "failures")
        self._verified: set[tuple[Any, ...]] = set()
        self._run = ""  # the key of the lease that a run holds through this object
        with explained(self.root, FULL | REFUSED):
            formats.check_folder(self.root)
            if read_only:
                return
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self._artifacts, self._tmp, self._quarantine, self._leases):
                folder.mkdir(mode=0o700, exist_ok=True)
            formats.write(self.root)
            self.sweep()

    @property
    def there(self) -> bool:
        """Whether there is a store, which one that is opened to be read only does not make."""
        return self.root.is_dir()

    @property
    def uri(self) -> str:
        """How another process calls this store."""
        return str(self.root)

    def path(self, key: str) -> Path:
        """Where the artifact of ``key`` is, or would be."""
        return self._artifacts / key[:2] / key[2:4] / key

    def partial(self, key: str) -> Path:
        """Where a long stage may keep its state until it is published; not made here."""
        return self.root / "partial" / key

    @contextmanager
    def lease(self, key: str, run: str = "") -> Iterator[bool]:
        """Whether the work on ``key`` is ours for this block; else another is at it (:mod:`redcloak.runtime.lease`)."""
        with ExitStack() as stack:
            with explained(self.root, FULL | REFUSED):
                ours = stack.enter_context(lease(self._leases / key, run))
            yield ours

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Have others delete nothing in this block, which a run needs; blocks of one store object may be nested."""
        if self._run:
            yield
            return
        key = secrets.token_hex(32)
        with self.lease(key):
            self._run = key
            try:
                yield
            finally:
                self._run = ""

    def read(self, key: str, label: str) -> Artifact:
        """The artifact of ``key``, which must be there.

        Raises:
            UserError: it is damaged, or was deleted meanwhile.
        """
        artifact = self.open(key)
        if artifact is None:
            raise UserError(f"{label}: its result is damaged or gone; `redcloak bench run` or `audit` makes it anew.")
        return artifact

    def find(self, key: str) -> Artifact | None:
        """The artifact of ``key`` as its manifest describes it, without a look at its files."""
        manifest = read(self.path(key))
        return Artifact(self.path(key), manifest) if manifest and manifest.key == key else None

    def open(self, key: str) -> Artifact | None:
        """The artifact of ``key``, verified; a damaged one is moved to ``quarantine/`` and counts as absent.

        The files are hashed once per store object, and again where their time or size has changed.
        """
        # Folders come into place whole: one that is there before it is read and makes no sense is damaged.
        if not self.path(key).exists():
            return None
        artifact = self.find(key)
        if artifact is None or not self._sound(artifact):
            if not self.read_only:
                self._set_aside(key)
            return None
        return artifact

    def verify(self, artifact: Artifact) -> str | None:
        """Hash every file anew: the first that is damaged, missing or foreign, or None where all is well."""
        return damage(artifact.path, artifact.manifest.files)

    @contextmanager
    def publish(
        self, stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> Iterator[Draft]:
        """Make the artifact of a stage: fill ``draft.folder``; leaving the block puts it into place.

        An exception in the block leaves nothing behind. Where another process published the same key
        meanwhile, this result is dropped without a word. ``inputs`` maps names to keys.

        Raises:
            UserError: the disk is full or the store cannot be written.
        """
        if self.read_only:
            raise StoreError(f"store {self.root}: it was opened to be read only; nothing can be made in it.")
        settings, sources = plain(config, stage), dict(inputs)
        with self._temporary() as folder:
            draft, start = Draft(folder), time.perf_counter()
            with explained(self.root, FULL):
                yield draft
            seconds = time.perf_counter() - start
            with explained(self.root, FULL | REFUSED):
                manifest = _sealed(draft, stage, version, settings, sources, seconds)
                self._place(folder, manifest.key)
                self.failures.forget(manifest.key)

    def manifests(self) -> Iterator[Manifest]:
        """The manifests of every artifact, in the order of their keys."""
        for path in sorted(self._artifacts.glob(f"*/*/*/{MANIFEST}")):
            if manifest := read(path.parent):
                yield manifest

    def keys(self) -> frozenset[str]:
        """The keys of all artifacts, by their folders' names alone."""
        return frozenset(path.name for path in self._artifacts.glob("*/*/*"))

    def size(self, key: str) -> int:
        """The bytes that the artifact of ``key`` takes; 0 where there is none."""
        return weight(self.path(key))

    def discard(self, key: str) -> None:
        """Delete the artifact of ``key``: renamed first, so that nobody meets half of one; another may be faster."""
        aside = self._quarantine / f"{key}~{secrets.token_hex(4)}"
        with suppress(FileNotFoundError):
            self.path(key).rename(aside)
            shutil.rmtree(aside)

    def forget(self, keys: Iterable[str]) -> None:
        """Delete the artifacts of ``keys`` where no other run is at work; one that begins keeps what it is making.

        Raises:
            UserError: another run is at work in the store, which might need them.
        """
        self.check_idle()
        for key in keys:
            with self.lease(key) as ours:
                if ours:
                    self.discard(key)

    def check_idle(self) -> None:
        """Raise a :class:`UserError` where another run is at work in the store: what is deleted it might need."""
        if held(self._leases, self._run):
            raise UserError(
                f"store {self.uri}: a run is at work there, and what is deleted it might need; "
                "wait for its end (30 s, if it was killed on another machine), or give another --store."
            )

    def leftovers(self, needed: Set[str] = frozenset()) -> int:
        """The bytes that failed and killed runs left; a state that a key ``needed`` goes on from is none."""
        return sum(weight(path) for path in left(self.root, needed))

    def clear(self, needed: Set[str] = frozenset()) -> None:
        """Delete what :meth:`leftovers` counts."""
        for path in left(self.root, needed):
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self) -> None:
        """Delete the temporary folders and leases of processes of this machine that are dead."""
        sweep(self._leases)
        sweep_drafts(self._tmp)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A new folder that names its owner, for :meth:`sweep`; what is left of it at the end is deleted."""
        with explained(self.root, FULL | REFUSED):
            folder = Path(tempfile.mkdtemp(prefix=f"{machine()}~{os.getpid()}~", dir=self._tmp))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _sound(self, artifact: Artifact) -> bool:
        times = ((name, path.stat()) for name, path in files_of(artifact.path).items())
        state = (artifact.key, *((name, stat.st_mtime_ns, stat.st_size) for name, stat in times))
        if state not in self._verified and damage(artifact.path, artifact.manifest.files) is not None:
            return False
        self._verified.add(state)
        return True

    def _place(self, folder: Path, key: str) -> None:
        """Rename a finished folder into place; one that is there already stays, unless it is damaged."""
        target = self.path(key)
        for parent in (target.parent.parent, target.parent):
            parent.mkdir(mode=0o700, exist_ok=True)
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            if self.find(key) is None:
                self._set_aside(key)
                self._place(folder, key)
        flush(target.parent)

    def _set_aside(self, key: str) -> None:
        with explained(self.root, FULL | REFUSED), suppress(FileNotFoundError):
            self.path(key).rename(self._quarantine / f"{key}~{secrets.token_hex(4)}")


def _sealed(
    draft: Draft, stage: str, version: int, config: dict[str, Any], inputs: dict[str, str], seconds: float
) -> Manifest:
    """Write the manifest of a draft that is filled, and have the disk keep all of it."""
    manifest = Manifest(
        key=artifact_key(stage, version, config, inputs),
        stage=stage,
        version=version,
        config=config,
        inputs=inputs,
        files=settle(draft.folder),
        libraries=libraries(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        wall_seconds=seconds,
        peak_memory_mb=draft.peak_memory_mb,
        notes=draft.notes,
    )
    write(draft.folder, manifest)
    for path in (draft.folder / MANIFEST, draft.folder, *draft.folder.rglob("*/")):
        flush(path)
    return manifest
