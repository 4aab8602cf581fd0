"""redcloak: does a protective perturbation hold? Protect, purify, personalize, generate, score, report.

Public names are loaded when first used, so that importing the package imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "AuditConfig": "redcloak.config",
    "Backbone": "redcloak.backbone",
    "Budget": "redcloak.api",
    "Context": "redcloak.api",
    "Decoupling": "redcloak.prompts",
    "Subject": "redcloak.api",
    "UserError": "redcloak.errors",
    "ascend": "redcloak.crafting.ascent",
    "audit": "redcloak.audit",
    "load_images": "redcloak.images",
    "load_method": "redcloak.registry",
    "load_suite": "redcloak.suite",
    "save_images": "redcloak.images",
}
_RENAMED = {"load_method": "load", "load_suite": "load"}
__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from redcloak.api import Budget, Context, Subject
    from redcloak.audit import audit
    from redcloak.backbone import Backbone
    from redcloak.config import AuditConfig
    from redcloak.crafting.ascent import ascend
    from redcloak.errors import UserError
    from redcloak.images import load_images, save_images
    from redcloak.prompts import Decoupling
    from redcloak.registry import load as load_method
    from redcloak.suite import load as load_suite


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _WHERE:
        raise AttributeError(f"module 'redcloak' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), _RENAMED.get(name, name))
