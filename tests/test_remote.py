import errno
import json
import threading
from datetime import timedelta
from pathlib import Path

import fsspec
import pytest
from toy_stages import FUNCTION, contents, lattice, lines

import redcloak.runtime.objects
import redcloak.runtime.remote
from redcloak.runtime.execute import run
from redcloak.runtime.manifest import MANIFEST, artifact_key, write
from redcloak.runtime.patience import PAUSES, Patient
from redcloak.runtime.places import open_store
from redcloak.runtime.refused import StoreError
from redcloak.runtime.remote import RemoteStore
from redcloak.runtime.store import Store


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def machine(tmp_path, memory):
    """A machine with a cache of its own, and the store that it sees."""
    return lambda name, **options: RemoteStore("memory://bucket/store", cache=tmp_path / name, **options)


def make(store, text="pixels", name="a"):
    with store.publish("protect", 1, {"name": name}, {}) as draft:
        (draft.folder / "deep").mkdir()
        (draft.folder / "deep" / "0.png").write_text(text)
        (draft.folder / "1.png").write_text(text * 2)
        draft.notes = {"loss": 0.5}
    return artifact_key("protect", 1, {"name": name}, {})


def manifest_of(key):
    return f"/bucket/store/artifacts/{key[:2]}/{key[2:4]}/{key}/{MANIFEST}"


def objects(memory):
    return sorted(path for path in memory.find("/bucket") if "/artifacts/" in path)


def test_what_one_machine_makes_another_reads(machine, memory):
    key = make(machine("one"))
    other = machine("other")
    assert other.find(key).manifest.notes == {"loss": 0.5}
    assert not other.path(key).exists()  # nothing is fetched before it is read
    artifact = other.open(key)
    assert (artifact.path / "deep" / "0.png").read_text() == "pixels"
    assert other.verify(artifact) is None
    assert [manifest.key for manifest in other.manifests()] == [key]
    assert other.open("0" * 64) is None
    memory.rm(f"/bucket/store/artifacts/{key[:2]}", recursive=True)
    assert other.open(key) == artifact  # fetched once
    assert machine("third").open(key) is None


def test_the_manifest_comes_last(machine, memory, monkeypatch):
    written, put = [], redcloak.runtime.remote.put_whole
    monkeypatch.setattr(
        "redcloak.runtime.remote.put_whole", lambda fs, path, data: written.append(path) or put(fs, path, data)
    )
    key = make(machine("one"))
    assert written[-1].endswith(f"/{key}/{MANIFEST}")
    assert len(written) == 1 + 3  # the format, two files, the manifest

    def cut(fs, path, data):
        if path.endswith(MANIFEST):
            raise ConnectionError("cable")
        put(fs, path, data)

    monkeypatch.setattr("redcloak.runtime.remote.put_whole", cut)
    with pytest.raises(StoreError, match="ConnectionError: cable; is it reachable"):
        make(machine("one"), name="b")
    assert machine("two").open(artifact_key("protect", 1, {"name": "b"}, {})) is None


def test_a_flipped_bit_over_there_is_found_and_set_aside(machine, memory):
    key, sound = make(machine("one")), make(machine("one"), name="b")
    victim = next(path for path in objects(memory) if key in path and not path.endswith(MANIFEST))
    data = bytearray(memory.cat_file(victim))
    data[0] ^= 1
    memory.pipe_file(victim, bytes(data))
    other = machine("two")
    assert other.open(key) is None
    assert other.find(key) is None
    assert other.open(sound) is not None
    assert any("/quarantine/" in path for path in memory.find("/bucket"))
    make(other)
    assert machine("three").open(key) is not None


def test_a_flipped_bit_in_the_cache_is_fetched_anew(machine):
    key, other = make(machine("one")), machine("two")
    path = other.open(key).path / "1.png"
    path.write_text("x")
    assert (machine("two").open(key).path / "1.png").read_text() == "pixels" * 2


def test_two_publishers_of_other_bytes_never_mix(machine):
    """Whoever is last, what is read is all of one of them; also by who had the other in the cache."""
    one, two = machine("one"), machine("two")
    with one.publish("protect", 1, {"name": "a"}, {}) as draft:
        (draft.folder / "deep").mkdir()
        (draft.folder / "deep" / "0.png").write_text("first")
        (draft.folder / "1.png").write_text("firstfirst")
        key = make(two, text="second")
    for store in (machine("one"), machine("two"), machine("three")):
        artifact = store.open(key)
        assert (artifact.path / "deep" / "0.png").read_text() == "first"
        assert (artifact.path / "1.png").read_text() == "firstfirst"


def test_many_threads_publish_the_same(machine):
    stores = [machine(str(index)) for index in range(4)]
    threads = [threading.Thread(target=make, args=(store, str(n))) for n, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    artifact = machine("reader").open(artifact_key("protect", 1, {"name": "a"}, {}))
    assert (artifact.path / "1.png").read_text() == (artifact.path / "deep" / "0.png").read_text() * 2


def test_failures_are_seen_by_all(machine):
    one, two = machine("one"), machine("two")
    key = artifact_key("protect", 1, {"name": "a"}, {})
    for count in (1, 2):
        one.failures.record(key, "protect", "label", "KeyError: 'x'", "Traceback")
        assert two.failures.get(key).attempts == count
    assert [failed.key for failed in two.failures.all()] == [key]
    make(two)
    assert list(one.failures.all()) == []


def test_a_newer_format_and_places_that_are_none(machine, memory, monkeypatch):
    make(machine("one"))
    assert json.loads(memory.cat_file("/bucket/store/format.json")) == {"format": 1}
    with pytest.raises(StoreError, match="opened to be read only"):
        make(machine("two", read_only=True), name="b")
    memory.pipe_file("/bucket/store/format.json", b'{"format": 7}')
    with pytest.raises(StoreError, match=r"store memory://bucket/store: made by a newer redcloak \(format 7"):
        machine("one")
    with pytest.raises(StoreError, match="use a folder, s3://BUCKET/NAME or gs://BUCKET/NAME"):
        open_store("nowhere://x")

    def lacking(uri, **_):
        raise ImportError("s3fs")

    monkeypatch.setattr(fsspec, "url_to_fs", lacking)
    with pytest.raises(StoreError, match=r"store s3://x/y: nothing here speaks s3; pip install 'redcloak\[s3\]'"):
        open_store("s3://x/y")


def test_a_run_in_workers_of_two_machines_over_one_uri(tmp_path, monkeypatch):
    uri, expected = (tmp_path / "shared").as_uri(), Store(tmp_path / "expected")
    run(lattice(tmp_path / "other")[0], expected, FUNCTION)
    for number, kept in ((2, 12), (1, 12)):
        monkeypatch.setenv("REDCLOAK_CACHE", str(tmp_path / f"cache{number}"))
        store = open_store(uri)
        assert store.uri == uri
        run(lattice(tmp_path / "log")[0], store, FUNCTION, workers=number)
        assert contents(store) == contents(expected)
        assert len(lines(tmp_path / "log")) == kept  # the second machine finds what the first has made
    assert all(store.open(key) for key in contents(store))


def test_artifacts_are_listed_weighed_and_discarded_over_there(machine, memory):
    one, other = machine("one"), machine("other")
    key, kept = make(one), make(one, name="b")
    assert other.keys() == one.keys() == {key, kept}
    manifest = (one.path(key) / "stage.json").stat().st_size
    assert other.size(key) == one.size(key) == len("pixels") * 3 + manifest
    assert other.size("0" * 64) == 0
    other.open(key)
    other.discard(key)
    assert other.keys() == machine("third").keys() == {kept}
    assert other.open(key) is None
    assert not other.path(key).exists()
    other.discard(key)  # somebody else was first
    assert all(kept in path for path in objects(memory))


def test_leftovers_are_told_and_cleared_over_there(machine, memory):
    store = machine("one")
    assert store.leftovers() == 0
    store.clear()  # nothing is there
    key = make(store)
    assert store.leftovers() == 0
    path = next(path for path in objects(memory) if not path.endswith("stage.json"))
    memory.pipe_file(path, b"other")
    assert machine("other").open(key) is None  # damaged, so set aside
    assert store.leftovers() > 0
    store.clear()
    assert store.leftovers() == 0


def test_an_upload_that_was_broken_off_a_day_ago_is_left_behind(machine, memory):
    store = machine("one")
    key, whole = make(store), make(store, name="b")
    memory.rm_file(manifest_of(key))
    assert store.leftovers() == 0  # somebody may be at it
    hours = redcloak.runtime.objects.OLD_SECONDS / 3600
    for path in objects(memory):
        memory.store[path].modified -= timedelta(hours=hours + 1)
    assert store.leftovers() == len("pixels") * 3
    store.clear()
    assert store.leftovers() == 0
    assert {path.split("/")[-2] for path in objects(memory)} == {whole}
    assert machine("other").open(whole)


def test_where_the_service_tells_no_time_no_upload_is_left_behind(machine, memory, monkeypatch):
    store = machine("one")
    key = make(store)
    memory.rm_file(manifest_of(key))
    monkeypatch.setattr(redcloak.runtime.objects, "OLD_SECONDS", -1.0)
    assert store.leftovers() == len("pixels") * 3

    def silent(self, path):
        raise NotImplementedError

    monkeypatch.setattr(type(memory), "modified", silent)
    assert store.leftovers() == 0
    store.clear()
    assert objects(memory)


def test_nobody_keeps_an_old_listing(monkeypatch):
    asked = []
    monkeypatch.setattr("fsspec.url_to_fs", lambda uri, **options: asked.append(options) or ("fs", "base"))
    patient, base = redcloak.runtime.objects.file_system("s3://bucket/name")
    assert (patient._fs, base) == ("fs", "base")
    assert asked == [{"use_listings_cache": False}]


class Flaky:
    """A file system that fails ``times`` times before each answer."""

    protocol = ("memory",)

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times, self.calls = error, times, 0

    def cat_file(self, path: str) -> bytes:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return path.encode()


@pytest.mark.parametrize(
    ("error", "times", "calls"),
    [
        (ConnectionError("cable"), 4, 5),
        (OSError(errno.EIO, "one hiccup"), 1, 2),
        (TimeoutError("busy"), 5, None),
        (FileNotFoundError("no"), 1, None),
        (PermissionError("no"), 1, None),
        (OSError(errno.ENOSPC, "full"), 1, None),
        (NotImplementedError("no"), 1, None),
    ],
    ids=lambda value: str(value),
)
def test_hiccups_are_tried_again_and_what_is_certain_is_not(error, times, calls):
    pauses: list[float] = []
    fs = Flaky(error, times)
    patient = Patient(fs, pauses.append)
    assert patient.protocol == ("memory",)
    if calls is None:
        with pytest.raises(type(error)):
            patient.cat_file("x")
        assert (fs.calls, len(pauses)) == ((5, 4) if times == 5 else (1, 0))
        return
    assert patient.cat_file("x") == b"x"
    assert fs.calls == calls
    assert all(PAUSES[i] / 2 <= pause <= PAUSES[i] for i, pause in enumerate(pauses))


def test_a_store_outlives_a_cut_of_the_cable(machine, memory, monkeypatch):
    monkeypatch.setattr("redcloak.runtime.patience.PAUSES", (0.0, 0.0))
    key = make(machine("one"))
    answers, cut = memory.cat_file, []

    def cat_file(path, *args, **kwargs):
        cut.append(path)
        if len(cut) % 2:
            raise ConnectionError("cable")
        return answers(path, *args, **kwargs)

    monkeypatch.setattr(memory, "cat_file", cat_file)
    assert (machine("other").open(key).path / "1.png").read_text() == "pixelspixels"


def test_verify_looks_over_there(machine, memory):
    store = machine("one")
    artifact = store.open(make(store))
    path = next(path for path in objects(memory) if not path.endswith("stage.json"))
    memory.pipe_file(path, b"other")
    assert store.verify(artifact) in artifact.manifest.files
    memory.rm_file(path)
    assert store.verify(artifact) in artifact.manifest.files
    assert store.open(artifact.key) is not None  # what is here is whole


@pytest.mark.parametrize("name", ["../../x", "/tmp/redcloak-x", "deep/../../../x", "."])
def test_a_manifest_may_not_write_elsewhere(machine, memory, tmp_path, name):
    key = make(machine("one"))
    manifest = machine("one").find(key).manifest
    files = {name: manifest.files["1.png"]}
    folder = tmp_path / "forged"
    folder.mkdir()
    write(folder, manifest.model_copy(update={"files": files}))
    memory.pipe_file(manifest_of(key), (folder / MANIFEST).read_bytes())
    with pytest.raises(StoreError, match="names a file outside of it") as told:
        machine("two").open(key)
    assert "\n" not in str(told.value)
    assert not any(path.name in ("x", "redcloak-x") for path in tmp_path.rglob("*"))
    assert not Path("/tmp/redcloak-x").exists()
