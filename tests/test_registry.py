from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from redcloak import registry
from redcloak.errors import UserError

PLUGIN = '''"""Turns every photo upside down."""
from redcloak.api import Method
from redcloak.config import MethodConfig

METHOD = Method(title="Flip", cite="nobody")


class Config(MethodConfig):
    """Nothing to set."""


def flip(images, config, context, generators):
    """Upside down."""
    return images.flip(-2)
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """A list of entry points that is as good as installed; it starts with one purifier, ``flip``."""
    (tmp_path / "upside_down.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [EntryPoint("flip", "upside_down", "redcloak.purify")]
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])
    registry.modules.cache_clear()
    yield points
    registry.modules.cache_clear()
    registry.load.cache_clear()


def test_a_method_is_called_as_its_file():
    assert {"none", "random_noise", "photoguard", "advdm", "aspl"} <= set(registry.names("protect"))
    assert {"none", "gaussian", "jpeg", "restore", "upscale", "codesr"} <= set(registry.names("purify"))
    assert registry.names("purify") == sorted(registry.names("purify"))
    entry = registry.load("purify", "none")
    assert (entry.kind, entry.name, entry.function.__module__) == ("purify", "none", "redcloak.purify.none")
    assert registry.load("protect", "none").function is not entry.function


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("protect", "asspl", r"unknown protection 'asspl': did you mean 'aspl'.* `redcloak list protections`"),
        ("purify", "gausian", "unknown purifier 'gausian': did you mean 'gaussian'"),
        ("metrics", "zzzzzz", "unknown metric 'zzzzzz': known: .*identity.*"),
        ("personalize", "../secret", "unknown trainer '../secret'"),
    ],
)
def test_an_unknown_name_is_told_its_neighbours(kind: registry.Kind, name: str, message: str):
    with pytest.raises(UserError, match=message):
        registry.load(kind, name)


def test_another_distribution_adds_a_method(plugin):
    assert "flip" in registry.names("purify")
    assert "flip" not in registry.names("protect")
    assert registry.summary("purify", "flip") == "Turns every photo upside down."
    assert "upside_down" not in sys.modules
    assert registry.load("purify", "flip").method.title == "Flip"


def test_a_name_is_given_once(plugin):
    plugin.append(EntryPoint("jpeg", "other.jpeg", "redcloak.purify"))
    with pytest.raises(UserError, match=r"purifier 'jpeg' is defined by redcloak\.purify\.jpeg and other\.jpeg"):
        registry.names("purify")


def test_listing_imports_nothing_heavy():
    program = """
import sys
from redcloak import registry
lines = {name: registry.summary(kind, name) for kind in registry.KINDS for name in registry.names(kind)}
assert all(lines.values()), lines
assert lines["jpeg"] == "JPEG compression by Pillow's own codec, the one a red team would use."
heavy = {"torch", "numpy", "diffusers", "pydantic", "redcloak.purify.jpeg", "redcloak.protect.aspl"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
