"""A store behind fsspec (``s3://``, ``gs://``, ``file://`` and others), with a local folder as its cache.

An object store renames nothing, so that an artifact becomes visible by its ``stage.json``, which is written last. Its
files are named by their own SHA-256: two workers that publish the same key at the same time cannot mix their files, and
whoever writes ``stage.json`` last wins whole. What fails for the moment is tried again
(:mod:`redcloak.runtime.patience`). Leases hold among the processes of one machine; across machines the same work may be
done twice, which does no harm.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from redcloak.errors import UserError
from redcloak.runtime import formats
from redcloak.runtime.manifest import MANIFEST, Manifest, parse, write
from redcloak.runtime.objects import RemoteFailures, file_system, is_old, put_whole
from redcloak.runtime.refused import StoreError
from redcloak.runtime.store import Artifact, Store


class RemoteStore(Store):
    """The artifacts under a URI; what is read is verified and kept in ``cache`` for the next time.

    Raises:
        StoreError: the place cannot be reached, or a newer redcloak made the store.
    """

    def __init__(self, uri: str, read_only: bool = False, cache: Path | None = None) -> None:
        self.place = uri.rstrip("/")
        self.fs, base = file_system(self.place)
        self.base = str(base).rstrip("/")
        self._known: dict[str, Manifest] = {}
        super().__init__(cache or _cache(self.place))
        self.remote_only_read = read_only
        self.failures = RemoteFailures(self.fs, f"{self.base}/failures", self._reached)
        with self._reached():
            try:
                formats.check(self.fs.cat_file(f"{self.base}/format.json"), self.place)
                self._found = True
            except FileNotFoundError:
                self._found = False
                if not read_only:
                    self._put("format.json", formats.DATA)

    @property
    def there(self) -> bool:
        """Whether there was a store when this one was opened."""
        return self._found

    @property
    def uri(self) -> str:
        """How another process calls this store."""
        return self.place

    def find(self, key: str) -> Artifact | None:
        """The artifact of ``key`` as its manifest over there describes it; its files may not be here yet."""
        if key not in self._known:
            with self._reached(), suppress(FileNotFoundError):
                manifest = parse(self.fs.cat_file(self._there(key, MANIFEST)))
                if manifest and manifest.key == key:
                    self._known[key] = manifest
        return Artifact(self.path(key), self._known[key]) if key in self._known else None

    def open(self, key: str) -> Artifact | None:
        """The artifact of ``key``, fetched where it is not here, and verified; a damaged one is set aside."""
        found = self.find(key)
        if found is None:
            return None
        here = super().find(key)
        if here is None or here.manifest.files != found.manifest.files or super().open(key) is None:
            if not self._fetch(found.manifest):
                self._forsake(key)
                return None
            here = super().open(key)
        return here or super().open(key)

    def manifests(self) -> Iterator[Manifest]:
        """The manifests of every artifact over there, in the order of their keys."""
        with self._reached():
            paths = sorted(self.fs.glob(f"{self.base}/artifacts/*/*/*/{MANIFEST}"))
        for path in paths:
            key = str(path).split("/")[-2]
            if found := self.find(key):
                yield found.manifest

    def keys(self) -> frozenset[str]:
        """The keys of all artifacts over there."""
        with self._reached():
            paths = self.fs.glob(f"{self.base}/artifacts/*/*/*/{MANIFEST}")
        return frozenset(str(path).split("/")[-2] for path in paths)

    def size(self, key: str) -> int:
        """The bytes that the artifact of ``key`` takes over there; 0 where there is none."""
        with self._reached(), suppress(FileNotFoundError):
            return int(self.fs.du(f"{self.base}/{self._folder(key)}"))
        return 0

    def verify(self, artifact: Artifact) -> str | None:
        """Hash every file over there anew: the first that is damaged or missing, or None where all is well."""
        for name, digest in artifact.manifest.files.items():
            data = None
            with self._reached(), suppress(FileNotFoundError):
                data = self.fs.cat_file(self._there(artifact.key, digest))
            if data is None or hashlib.sha256(data).hexdigest() != digest:
                return name
        return None

    def discard(self, key: str) -> None:
        """Delete the artifact of ``key`` over there, its manifest first, and what is kept of it here."""
        self._known.pop(key, None)
        with self._reached(), suppress(FileNotFoundError):
            self.fs.rm_file(self._there(key, MANIFEST))
        with self._reached(), suppress(FileNotFoundError):
            self.fs.rm(f"{self.base}/{self._folder(key)}", recursive=True)
        if self.path(key).exists():
            super().discard(key)

    def leftovers(self, needed: Set[str] = frozenset()) -> int:
        """The bytes that failed and killed runs left, here and over there; of uploads, those broken off a day ago."""
        found = super().leftovers(needed)
        with self._reached(), suppress(FileNotFoundError):
            found += int(self.fs.du(f"{self.base}/quarantine"))
        return found + sum(self._broken_off().values())

    def clear(self, needed: Set[str] = frozenset()) -> None:
        """Delete what :meth:`leftovers` counts."""
        super().clear(needed)
        with self._reached(), suppress(FileNotFoundError):
            self.fs.rm(f"{self.base}/quarantine", recursive=True)
        for path in self._broken_off():
            with self._reached(), suppress(FileNotFoundError):
                self.fs.rm_file(path)

    def _broken_off(self) -> dict[str, int]:
        """The old files over there of artifacts without a manifest, which nobody ever saw: path -> bytes."""
        with self._reached(), suppress(FileNotFoundError):
            files = {
                str(path): int(each["size"])
                for path, each in self.fs.find(f"{self.base}/artifacts", detail=True).items()
            }
            whole = {path.rpartition("/")[0] for path in files if path.endswith(f"/{MANIFEST}")}
            lost = {path: size for path, size in files.items() if path.rpartition("/")[0] not in whole}
            return {path: size for path, size in lost.items() if is_old(self.fs, path)}
        return {}

    def _place(self, folder: Path, key: str) -> None:
        """Put a finished folder into the cache, then over there: its files, and last its manifest."""
        if self.remote_only_read:
            raise StoreError(f"store {self.place}: it was opened to be read only; nothing can be made in it.")
        super()._place(folder, key)
        mine = super().find(key)
        assert mine is not None
        with self._reached():
            for name, digest in mine.manifest.files.items():
                self._put(f"{self._folder(key)}/{digest}", (mine.path / name).read_bytes())
            self._put(f"{self._folder(key)}/{MANIFEST}", (mine.path / MANIFEST).read_bytes())
        self._known[key] = mine.manifest

    def _fetch(self, manifest: Manifest) -> bool:
        """Bring an artifact here; False where a file of it is missing or damaged over there."""
        with self._temporary() as folder:
            for name, digest in manifest.files.items():
                path = self._below(folder, name, manifest.key)
                try:
                    with self._reached():
                        data = self.fs.cat_file(self._there(manifest.key, digest))
                except FileNotFoundError:
                    return False
                if hashlib.sha256(data).hexdigest() != digest:
                    return False
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            write(folder, manifest)
            if super().find(manifest.key) is not None:
                self._set_aside(manifest.key)
            super()._place(folder, manifest.key)
        return True

    def _below(self, folder: Path, name: str, key: str) -> Path:
        """Where a file that a manifest names goes; who may write over there may not write anywhere on this machine."""
        path = (folder / name).resolve()
        if folder.resolve() in path.parents:
            return path
        raise StoreError(f"store {self.place}: the manifest of {key} names a file outside of it ({name!r}); delete it.")

    def _forsake(self, key: str) -> None:
        """Move a damaged artifact out of the way, its manifest first."""
        self._known.pop(key, None)
        if self.remote_only_read:
            return
        aside = f"{self.base}/quarantine/{key}~{secrets.token_hex(4)}"
        with self._reached(), suppress(FileNotFoundError):
            self.fs.makedirs(aside, exist_ok=True)
            self.fs.mv(self._there(key, MANIFEST), f"{aside}/{MANIFEST}")
            for path in self.fs.ls(self._there(key, "").rstrip("/"), detail=False):
                self.fs.mv(path, f"{aside}/{str(path).split('/')[-1]}")

    def _folder(self, key: str) -> str:
        return f"artifacts/{key[:2]}/{key[2:4]}/{key}"

    def _there(self, key: str, name: str) -> str:
        return f"{self.base}/{self._folder(key)}/{name}"

    def _put(self, name: str, data: bytes) -> None:
        put_whole(self.fs, f"{self.base}/{name}", data)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn what the network or the service says into one line; that something is not there is no error."""
        try:
            yield
        except (UserError, FileNotFoundError):
            raise
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            raise StoreError(f"store {self.place}: {words}; is it reachable, and may you write there?") from error


def _cache(uri: str) -> Path:
    """A folder of this machine for what is read from a place; ``REDCLOAK_CACHE`` says where such folders lie."""
    root = os.environ.get("REDCLOAK_CACHE")
    parent = Path(root) if root else Path.home() / ".cache" / "redcloak"
    return parent / hashlib.sha256(uri.encode()).hexdigest()[:16]
