"""What a plan must know of photos, kept between plans: to draw or to read them anew takes a second each."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from redcloak.images import file_digest, list_images
from redcloak.report.table import write_whole
from redcloak.subjects import Photos, load_subject
from redcloak.suite import Suite

PORTRAITS = Path(__file__).parents[1] / "portraits"


class Digests:
    """Names and digests of photos without their pixels, and whose faces they show, kept in one file, if in any.

    What is remembered is only believed while nothing has changed: for a folder the names, sizes and times of its files,
    for drawn subjects the source of the portrait generator.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.known: dict[str, Any] = {}
        self.changed = False
        if path is not None:
            with suppress(OSError, ValueError):
                self.known = json.loads(path.read_bytes())

    def photos(self, spec: str, size: int) -> Photos:
        """The photos of a subject; their pixels may be missing.

        Raises:
            UserError: as :func:`redcloak.subjects.load_subject` does.
        """
        name, state = f"{spec}@{size}", self._state(spec)
        found = self.known.get(name)
        if isinstance(found, dict) and found.get("state") == state:
            photos = found["photos"]
            return Photos(
                photos["name"],
                (),
                tuple(photos["train_names"]),
                (),
                tuple(photos["reference_names"]),
                photos["held_out"],
                photos["digest"],
            )
        photos = load_subject(spec, size)
        fields = ("name", "train_names", "reference_names", "held_out", "digest")
        self.known[name] = {"state": state, "photos": {field: getattr(photos, field) for field in fields}}
        self.changed = True
        return photos

    def look(self, spec: str, suite: Suite) -> str | None:
        """What is wrong with the faces of known photos, looked at once with the suite's back end, and remembered.

        Raises:
            UserError: as :func:`redcloak.detection.one_person` does; that is not remembered.
        """
        known, by = self.known[f"{spec}@{suite.spec.resolution}"], suite.fingerprint_of_faces()
        if known.get("faces", {}).get("by") != by:
            from redcloak.detection import strangers

            known["faces"] = {"by": by, "strangers": strangers(load_subject(spec, suite.spec.resolution), suite.faces)}
            self.changed = True
        return self.strangers(spec, suite.spec.resolution)

    def strangers(self, spec: str, size: int) -> str | None:
        """What was wrong with the faces of known photos when they were last looked at; None where nobody has looked."""
        found: str | None = self.known[f"{spec}@{size}"].get("faces", {}).get("strangers")
        return found

    def keep(self) -> None:
        """Write what was learnt, where there is a folder for it."""
        if self.changed and self.path is not None and self.path.parent.is_dir():
            write_whole(self.path, json.dumps(self.known).encode())
            self.changed = False

    def _state(self, spec: str) -> Any:
        if spec.startswith("drawn:"):
            return self._portraits
        return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in list_images(Path(spec))]

    @cached_property
    def _portraits(self) -> str:
        files = (*sorted(PORTRAITS.glob("*.py")), PORTRAITS.parent / "images.py", PORTRAITS.parent / "subjects.py")
        return " ".join(file_digest(file)[:16] for file in files)
