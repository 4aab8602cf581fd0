"""Files behind fsspec: how they are reached, written whole, and dated; and the failures that lie among them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redcloak.runtime.contents import replace
from redcloak.runtime.failures import Failures
from redcloak.runtime.leftovers import OLD_SECONDS
from redcloak.runtime.patience import Patient
from redcloak.runtime.refused import StoreError

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


class RemoteFailures(Failures):
    """Failures that are kept beside the artifacts, where every machine sees them."""

    def __init__(self, fs: Any, folder: str, reached: Callable[[], AbstractContextManager[None]]) -> None:
        self.fs, self.there, self.reached = fs, folder, reached

    def _names(self) -> list[str]:
        with self.reached():
            return sorted(str(path).split("/")[-1] for path in self.fs.glob(f"{self.there}/*.json"))

    def _read(self, name: str) -> bytes:
        with self.reached():
            data: bytes = self.fs.cat_file(f"{self.there}/{name}")
            return data

    def _write(self, name: str, data: bytes) -> None:
        with self.reached():
            put_whole(self.fs, f"{self.there}/{name}", data)

    def _delete(self, name: str) -> None:
        with self.reached(), suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.there}/{name}")


def put_whole(fs: Any, path: str, data: bytes) -> None:
    """Write one object whole: what services do of themselves, and what a file system does by renaming."""
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    if "file" not in fs.protocol:
        fs.pipe_file(path, data)
        return
    replace(Path(path), data)


def file_system(uri: str) -> tuple[Any, Any]:
    """The file system behind a URI, which tries again what fails for the moment, and the path within it.

    Raises:
        StoreError: fsspec does not speak this scheme here, or the URI is none.
    """
    import fsspec

    scheme = uri.partition("://")[0]
    try:
        fs, base = fsspec.url_to_fs(uri, use_listings_cache=False)
    except ImportError:
        extra = EXTRAS.get(scheme)
        fix = f"pip install 'redcloak[{extra}]'" if extra else f"install what fsspec needs for {scheme}://"
        raise StoreError(f"store {uri}: nothing here speaks {scheme}; {fix}.") from None
    except ValueError as error:
        raise StoreError(f"store {uri}: {error}; use a folder, s3://BUCKET/NAME or gs://BUCKET/NAME.") from None
    return Patient(fs), base


def is_old(fs: Any, path: str) -> bool:
    """Whether no machine can still be at the upload of a file; where the service tells no time, nobody knows."""
    with suppress(FileNotFoundError, NotImplementedError):
        written: datetime = fs.modified(path)
        written = written if written.tzinfo else written.replace(tzinfo=UTC)
        return (datetime.now(UTC) - written).total_seconds() > OLD_SECONDS
    return False
