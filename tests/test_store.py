import errno
import json
import multiprocessing
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import redcloak.runtime.contents
import redcloak.runtime.store
from redcloak.errors import UserError
from redcloak.runtime.lease import machine
from redcloak.runtime.manifest import MANIFEST, artifact_key, key_of, plain
from redcloak.runtime.refused import StoreError
from redcloak.runtime.store import Store

finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
mappings = st.dictionaries(st.text(), values, max_size=5)


def tuples(value):
    """The same value with tuples for lists, the other order of names, and the other zero."""
    if isinstance(value, dict):
        return {name: tuples(value[name]) for name in reversed(value)}
    if isinstance(value, list):
        return tuple(map(tuples, value))
    return -0.0 if isinstance(value, float) and value == 0 else value


def make(store, name="a", text="pixels", **notes):
    with store.publish("protect", 1, {"name": name}, {}) as draft:
        (draft.folder / "deep").mkdir()
        (draft.folder / "deep" / "0.png").write_text(text)
        (draft.folder / "1.png").write_text(text * 2)
        draft.notes = notes
    return artifact_key("protect", 1, {"name": name}, {})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@given(mappings)
@example({"x": [0.0]})
def test_key_is_of_the_content_not_of_its_form(fields):
    assert key_of(fields) == key_of(tuples(fields))
    assert key_of(fields) == key_of(json.loads(json.dumps(fields)))


@given(mappings, mappings)
def test_different_fields_have_different_keys(one, other):
    same = json.dumps(plain(one), sort_keys=True) == json.dumps(plain(other), sort_keys=True)
    assert (key_of(one) == key_of(other)) is same


@given(values, st.sampled_from([float("nan"), float("inf"), float("-inf")]))
def test_a_number_that_is_not_finite_has_no_key(value, odd):
    with pytest.raises(UserError, match=r"config\.lr\[1\] = -?(nan|inf): not a finite number"):
        plain({"lr": [value, odd]}, "config")
    with pytest.raises(UserError):
        key_of({"lr": (value, odd)})


def test_key_is_stable_for_ever():
    fields = {
        "stage": "protect",
        "config": {"budget": 11.0, "steps": (1, 2), "on": True, "x": None, "é": 1e-7},
    }
    assert key_of(fields) == "b7ef7a5921bf068d2404712a125beb5b4c22393bc89ef823a401e03ba77fe85b"
    assert key_of({"x": 1}) != key_of({"x": 1.0})
    assert key_of({"x": np.float64(0.1)}) == key_of({"x": 0.1})


@pytest.mark.parametrize("value", [{1: "a"}, {"x": {2, 3}}, {"x": Path("a")}, {"x": np.float32(1)}])
def test_what_is_not_json_has_no_key(value):
    with pytest.raises(TypeError):
        key_of(value)


def test_publish_and_read_back(store):
    key = make(store, budget=11 / 255, loss=float("nan"))
    artifact = store.open(key)
    assert artifact.path == store.path(key)
    assert (artifact.path / "deep" / "0.png").read_text() == "pixels"
    manifest = artifact.manifest
    assert manifest.key == artifact.key == key
    assert (manifest.stage, manifest.config) == ("protect", {"name": "a"})
    assert sorted(manifest.files) == ["1.png", "deep/0.png"]
    assert manifest.notes == {"budget": 11 / 255, "loss": None}
    assert manifest.libraries["python"].split(".")[0] == "3"
    assert {"torch", "numpy"} <= manifest.libraries.keys()
    assert manifest.created.endswith("+00:00")
    assert store.verify(artifact) is None
    assert list(store.manifests()) == [manifest]


def test_only_the_owner_may_look(store):
    folder = store.path(make(store))
    while folder != store.root.parent:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        folder = folder.parent


def test_an_exception_leaves_nothing(store):
    def fail():
        with store.publish("protect", 1, {}, {}) as draft:
            (draft.folder / "0.png").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert store.find(artifact_key("protect", 1, {}, {})) is None
    assert [path.name for path in store.root.rglob("*") if path.is_file()] == ["format.json"]
    assert list((store.root / "tmp").iterdir()) == []


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def scratch(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("damage", [flip, Path.unlink, scratch])
@pytest.mark.parametrize("name", ["1.png", "deep/0.png", MANIFEST])
def test_damage_is_found_and_set_aside(store, name, damage):
    key, sound = make(store), make(store, "b")
    assert store.open(key) is not None
    damage(store.path(key) / name)
    for reader in (store, Store(store.root)):
        assert reader.open(key) is None
    assert not store.path(key).exists()
    assert [path.name.split("~")[0] for path in (store.root / "quarantine").iterdir()] == [key]
    assert store.open(sound) is not None
    assert make(store) == key
    assert store.verify(store.open(key)) is None


def test_verify_names_the_file(store):
    artifact = store.find(make(store))
    (artifact.path / "2.png").write_text("foreign")
    assert store.verify(artifact) == "2.png"
    flip(artifact.path / "1.png")
    assert store.verify(artifact) == "1.png"


def test_every_byte_of_the_manifest_counts(store):
    path = store.path(make(store, loss=0.5)) / MANIFEST
    path.write_text(path.read_text().replace('"loss": 0.5', '"loss": 0.4'))
    assert store.find(path.parent.name) is None


def test_an_artifact_in_the_wrong_place_is_absent(store):
    key, other = make(store), artifact_key("protect", 1, {"name": "b"}, {})
    store.path(other).parent.mkdir(parents=True)
    store.path(key).rename(store.path(other))
    assert store.find(other) is None


def test_publishing_replaces_a_damaged_artifact_that_nobody_opened(store):
    key = make(store)
    (store.path(key) / MANIFEST).write_text("{}")
    make(store)
    assert store.open(key) is not None


def test_files_are_hashed_once_per_process(store, monkeypatch):
    key, opened, digest = make(store), [], redcloak.runtime.contents._digest
    monkeypatch.setattr("redcloak.runtime.contents._digest", lambda path: opened.append(path.name) or digest(path))
    for _ in range(3):
        assert store.open(key) is not None
    assert sorted(opened) == ["0.png", "1.png"]


def test_first_publisher_wins(store):
    with store.publish("protect", 1, {"name": "a"}, {}) as late:
        (late.folder / "1.png").write_text("second")
        key = make(store, text="first")
    assert (store.path(key) / "deep" / "0.png").read_text() == "first"
    assert store.open(key) is not None
    assert list((store.root / "tmp").iterdir()) == []


def test_what_comes_into_place_while_one_looks_stays(store, monkeypatch):
    read = redcloak.runtime.store.read

    def slowly(folder):
        seen = read(folder)
        monkeypatch.undo()
        make(store)
        return seen

    monkeypatch.setattr("redcloak.runtime.store.read", slowly)
    key = artifact_key("protect", 1, {"name": "a"}, {})
    store.open(key)
    monkeypatch.undo()
    make(store)
    assert store.open(key) is not None
    assert list((store.root / "quarantine").iterdir()) == []


def publish_many(root, barrier):
    store = Store(root)
    for index in range(40):
        barrier.wait(20)
        store.open(artifact_key("protect", 1, {"name": str(index)}, {}))
        make(store, str(index), text=str(os.getpid()))


def test_concurrent_publishers(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=publish_many, args=(tmp_path, barrier)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
        assert process.exitcode == 0
    store = Store(tmp_path)
    for index in range(40):
        artifact = store.open(artifact_key("protect", 1, {"name": str(index)}, {}))
        small, large = ((artifact.path / name).read_text() for name in ("deep/0.png", "1.png"))
        assert large == small * 2  # all of it by one of the two
    assert [list((tmp_path / name).iterdir()) for name in ("tmp", "quarantine")] == [[], []]


@pytest.mark.parametrize("collected", [True, False])
def test_leftovers_of_the_dead_are_swept_and_of_the_living_kept(store, collected):
    script = (
        "import os, sys, pathlib, redcloak.runtime.store as s\n"
        "with s.Store(pathlib.Path(sys.argv[1])).publish('x', 1, {}, {}) as draft:\n"
        "    (draft.folder / 'half').write_text('half'); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.Popen([sys.executable, "-c", script, str(store.root)])
    os.waitid(os.P_PID, killed.pid, os.WEXITED | (0 if collected else os.WNOWAIT))
    assert len(list((store.root / "tmp").iterdir())) == 1
    with store.publish("y", 1, {}, {}) as draft:
        Store(store.root)
        assert list((store.root / "tmp").iterdir()) == [draft.folder]
    killed.wait()


def test_everything_is_on_the_disk_before_it_is_in_place(store, monkeypatch):
    seen, flush, rename = [], redcloak.runtime.contents.flush, Path.rename
    for module in (redcloak.runtime.contents, redcloak.runtime.store):
        monkeypatch.setattr(module, "flush", lambda path: seen.append(path.name) or flush(path))
    monkeypatch.setattr(Path, "rename", lambda path, target: seen.append("rename") or rename(path, target))
    key = make(store)
    assert seen[:3] == ["1.png", "0.png", MANIFEST]
    assert "deep" in seen[3:5]
    assert seen[5:] == ["rename", key[2:4]]


@pytest.mark.parametrize("call", ["fsync", "mkdir", "rename"])
def test_disk_full_is_one_line(store, monkeypatch, call):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match="the disk is full; free some space") as caught:
        make(store)
    monkeypatch.undo()
    assert str(store.root) in str(caught.value)
    assert store.find(artifact_key("protect", 1, {"name": "a"}, {})) is None
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "x"), RuntimeError("I/O: No space left on device")])
def test_disk_full_inside_a_stage(store, error):
    def fill():
        with store.publish("protect", 1, {}, {}):
            raise error

    with pytest.raises(UserError, match="the disk is full"):
        fill()


def test_a_write_that_the_system_refuses_leaves_nothing(store, no_room):
    with no_room(), pytest.raises(OSError, match="File too large"):
        make(store)
    assert store.keys() == frozenset()
    assert list((store.root / "tmp").iterdir()) == []
    assert store.open(make(store)) is not None


def test_a_stage_may_lack_rights_elsewhere(store):
    def forbidden():
        with store.publish("protect", 1, {}, {}):
            raise PermissionError(errno.EACCES, "photos")

    with pytest.raises(PermissionError, match="photos"):
        forbidden()


def test_a_root_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="choose a folder that you may write to"):
            Store(root)

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(UserError, match="Permission denied; choose a folder"):
        Store(tmp_path / "new")


def test_a_stage_may_not_write_the_manifest(store):
    def forge():
        with store.publish("protect", 1, {}, {}) as draft:
            (draft.folder / MANIFEST).write_text("{}")

    with pytest.raises(ValueError, match=MANIFEST):
        forge()


def test_a_store_says_its_format_and_a_newer_one_is_refused(store):
    key = make(store)
    path = store.root / "format.json"
    assert json.loads(path.read_text()) == {"format": 1}
    path.write_text('{"format": 2}')
    for read_only in (False, True):
        with pytest.raises(StoreError, match=r"made by a newer redcloak \(format 2; this one reads up to 1\); update"):
            Store(store.root, read_only)
    path.write_text("{")
    with pytest.raises(StoreError, match=r"format\.json is damaged; delete it"):
        Store(store.root)
    path.unlink()  # as in stores that are older than the file
    assert Store(store.root).open(key) is not None
    assert path.exists()


def test_reading_only_touches_nothing(store, tmp_path, monkeypatch):
    key, damaged = make(store), make(store, "b")
    flip(store.path(damaged) / "1.png")
    (store.root / "tmp" / "rest~1~x").mkdir()
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for call in ("mkdir", "rename", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(os, call, refuse)
    reader = Store(store.root, read_only=True)
    assert reader.open(key) is not None
    assert reader.open(damaged) is None
    with pytest.raises(StoreError, match="opened to be read only"):
        make(reader, "c")
    with pytest.raises(StoreError, match="Read-only file system; choose a folder that you may write to"):
        Store(tmp_path / "new")
    monkeypatch.undo()
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


def test_failures_are_kept_until_they_are_mended(store):
    key = artifact_key("protect", 1, {"name": "a"}, {})
    assert store.failures.get(key) is None
    for count in (1, 2):
        store.failures.record(key, "protect", "protect: aspl", "KeyError: 'x'", "Traceback ...")
        failed = Store(store.root).failures.get(key)
        assert (failed.attempts, failed.label, failed.trace) == (count, "protect: aspl", "Traceback ...")
    assert list(store.failures.all()) == [failed]
    (store.root / "failures" / "half.json").write_text("{")
    assert list(store.failures.all()) == [failed]
    assert make(store) == key
    assert list(store.failures.all()) == []


def test_nothing_is_deleted_while_a_run_is_at_work(store):
    key, kept = make(store), make(store, "b")
    with Store(store.root).lease("0" * 64), pytest.raises(UserError, match="a run is at work there") as told:
        store.forget([key])
    assert "\n" not in str(told.value)
    assert store.keys() == {key, kept}
    store.forget([key])
    assert store.keys() == {kept}
    store.discard(key)  # somebody else was first
    assert list((store.root / "quarantine").iterdir()) == list((store.root / "leases").iterdir()) == []


def test_what_a_run_began_meanwhile_is_making_stays(store):
    key, other = make(store), make(store, "b")

    def keys():
        with Store(store.root).lease(key):
            yield key
        yield other

    store.forget(keys())
    assert store.keys() == {key}


def test_leftovers_are_told_and_cleared_but_for_what_somebody_goes_on_from(store):
    flip(store.path(make(store)) / "1.png")
    assert store.open(next(iter(store.keys()))) is None
    mine = f"{machine()}~{os.getpid()}~x"
    drafts = [store.root / "tmp" / name for name in ("elsewhere~1~old", "elsewhere~1~new", mine)]
    states = [store.partial(name * 64) for name in "ab"]
    for folder in (*drafts, *states):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"x" * 1000)
    for folder in (drafts[0], drafts[2]):
        os.utime(folder, (0, 0))
    needed = {"a" * 64}
    before = store.leftovers(needed)
    assert 2000 < before < 3000  # a draft, a state, and the damaged one, which is small
    assert store.leftovers() == before + 1000
    store.clear(needed)
    assert store.leftovers(needed) == 0
    there = [path.name for name in ("tmp", "partial") for path in (store.root / name).iterdir()]
    assert sorted(there) == sorted(["a" * 64, "elsewhere~1~new", mine])


def test_who_reads_is_told_what_makes_it_anew(store):
    with pytest.raises(UserError, match=r"^score: clean: its result is damaged or gone; `redcloak bench run`"):
        store.read("0" * 64, "score: clean")
