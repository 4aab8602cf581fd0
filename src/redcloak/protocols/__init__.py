"""Protocols: the settings of a published evaluation, shipped and versioned, so that two people mean the same by a name.

``--config paper`` reads ``paper.yaml`` of this folder. Flags and ``--set`` still override it; what they changed is told
beside the protocol's name, in the report and in ``audit.yaml``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from redcloak.errors import UserError, unknown

if TYPE_CHECKING:
    from redcloak.config import AuditConfig

FOLDER = Path(__file__).parent
# Whose photos, against which protection and on which machine: no protocol speaks of it.
FREE = {"photos", "already_protected", "protection", "protocol", "device", "memory", "workers"}


def names() -> list[str]:
    """The protocols that come with redcloak."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> dict[str, Any]:
    """A protocol as it is stored: ``version``, ``title``, ``cite`` and ``settings``."""
    from redcloak.parsing import read_yaml

    if name not in names():
        raise unknown("protocol", name, names(), "Or give --config a YAML file.")
    return read_yaml(FOLDER / f"{name}.yaml")


def settings(name: str) -> dict[str, Any]:
    """The fields of an audit's configuration that a protocol fixes, and its name with its version."""
    found = read(name)
    return {**found["settings"], "protocol": f"{name}@{found['version']}"}


def changed(config: AuditConfig) -> tuple[str, ...]:
    """The fields in which a configuration departs from the protocol that it names.

    Raises:
        UserError: the protocol is not known here in that version.
    """
    from redcloak.config import AuditConfig
    from redcloak.parsing import validate

    if config.protocol is None:
        return ()
    name, _, version = config.protocol.partition("@")
    known = read(name)
    if version != str(known["version"]):
        raise UserError(
            f"protocol = {config.protocol!r}: this redcloak ships version {known['version']}; remove the line, or "
            "use the redcloak that wrote it."
        )
    plain = validate(AuditConfig, {"photos": "x", **known["settings"]}, f"protocol {name}")
    return tuple(
        field
        for field in AuditConfig.model_fields
        if field not in FREE and getattr(config, field) != getattr(plain, field)
    )


def told(config: AuditConfig) -> str:
    """The protocol in words, for a report: empty where the configuration names none."""
    if config.protocol is None:
        return ""
    name, _, version = config.protocol.partition("@")
    departs = changed(config)
    return f"{name}, version {version}" + (f"; changed: {', '.join(departs)}" if departs else "")
