"""What is read without torch is what is read with it."""

import json
import subprocess
import sys
from dataclasses import asdict
from typing import get_args

import pytest

from redcloak import light, registry
from redcloak.api import Kind
from redcloak.arms import Builder
from redcloak.config import AuditConfig
from redcloak.errors import UserError
from redcloak.subjects import Photos
from redcloak.suite import load as load_suite

PHOTOS = Photos("someone", (), ("a.png",), (), ("b.png",), True, "digest")
TORCHLESS = "import json, sys, test_light as t; print(json.dumps([t.facts(), t.keys(), sorted(sys.modules)]))"


def facts():
    """Everything that a plan may ask of a method, of every method."""
    found = {}
    for kind in get_args(Kind):
        for name in registry.names(kind):
            entry = registry.describe(kind, name)
            config = entry.config()
            try:
                more = config.key_fields(), config.models(), entry.needs(config), config.check()
            except UserError as error:
                more = str(error)
            found[f"{kind}/{name}"] = [asdict(entry.method), entry.config.model_json_schema(), entry.doc, more]
    return json.loads(json.dumps(found, default=str))


def keys():
    """The keys of an audit with many methods."""
    config = AuditConfig(
        photos="someone", protection={"name": "adaptive", "base": "aspl"}, purifiers=["gridpure,codesr", "jpeg"]
    )
    builder = Builder(config, load_suite("tiny"), PHOTOS)
    builder.arms()
    return {node.label: node.key for node in builder.graph.order()}


def test_without_torch_the_same_is_known():
    run = subprocess.run(
        [sys.executable, "-c", TORCHLESS], cwd=__file__.rpartition("/")[0], capture_output=True, text=True, check=True
    )
    lightly, keys_lightly, modules = json.loads(run.stdout)
    assert not {"torch", "diffusers", "transformers", "cv2"} & set(modules)
    assert "redcloak.crafting.surrogate~light" in modules
    for kind in get_args(Kind):
        for name in registry.names(kind):
            registry.load(kind, name)  # now `describe` gives this
    registry.describe.cache_clear()
    assert lightly == facts()
    assert keys_lightly == keys()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Writes a module of the package that is found only here."""
    monkeypatch.setattr(light, "HEAVY", frozenset({"wave", "not_installed"}))  # one that is surely not imported yet
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    light.is_heavy.cache_clear()

    def write(text):
        file = tmp_path / "thing.py"
        file.write_text(text)
        monkeypatch.setattr(light, "_source_or_none", lambda name: file if name == "redcloak.thing" else None)
        return "redcloak.thing"

    yield write
    light.is_heavy.cache_clear()
    sys.modules.pop("redcloak.thing" + light.SUFFIX, None)


def test_what_is_slow_is_replaced_and_the_rest_is_real(source):
    name = source(
        "from collections.abc import Callable\nimport wave\nfrom wave import Net, decorate\n"
        "Step = Callable[[Net], Net]\nHALF = wave.tensor([1]) / 2\nSIZE = 3\n"
        "class Mine(Net, wave.Mixin):\n    'Words.'\n"
        "@decorate(1, deep=True)\ndef first(): return SIZE\n@decorate\ndef second(): return SIZE\n"
    )
    made = light.module(name)
    assert "wave" not in sys.modules
    assert (made.SIZE, made.second(), made.Mine.__doc__) == (3, 3, "Words.")
    assert light.module(name) is made


def test_a_module_that_computes_while_it_is_imported_is_imported_in_full(source, monkeypatch):
    name = source("import wave\nSIZE = len(wave.open)\n")
    monkeypatch.setattr(light.importlib, "import_module", lambda asked: f"the whole of {asked}")
    assert light.module(name) == "the whole of redcloak.thing"
    assert name + light.SUFFIX not in sys.modules


def test_a_package_that_is_absent_stays_absent(source):
    name = source("try:\n    import not_installed\nexcept ImportError:\n    there = False\n")
    assert light.module(name).there is False
