"""The folder of a run: where it is, who may write it, and which files are in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redcloak.errors import UserError
from redcloak.runtime.lease import lease

MATRIX = "matrix.yaml"  # what the last run was of, every default resolved
STUDY = "study.yaml"  # the same of a study
PHOTOS = "photos.json"  # what is remembered of photos


def run_folder(protocol: str, out: Path | None) -> Path:
    """The folder of a run of a matrix or a study, where the user names none."""
    return out or Path(f"bench-{protocol}")


@contextmanager
def only_driver(out: Path) -> Iterator[None]:
    """Let one run at a time write a folder; several folders may share a store."""
    with ExitStack() as stack:
        try:
            ours = stack.enter_context(lease(out / ".driver"))
        except OSError as error:
            raise UserError(f"--out {str(out)!r}: {error.strerror}; free some space, or give another --out.") from None
        if not ours:
            raise UserError(
                f"--out {str(out)!r}: another `redcloak bench run` is at work there; wait for it, or give another "
                "--out (several runs may share one --store)."
            )
        yield
