import os
import socket
import subprocess
import sys
import time

import pytest

import redcloak.runtime.lease
from redcloak.runtime.lease import STALE_SECONDS, held, lease, machine, sweep

HOLDER = """
import pathlib, sys, time
from redcloak.runtime.lease import lease
with lease(pathlib.Path(sys.argv[1]), "theirs") as ours:
    print(ours, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "key"


@pytest.fixture
def holder(path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.communicate()


def ours(path, run=""):
    with lease(path, run) as got:
        return got


def test_one_at_a_time_and_given_back(path):
    with lease(path) as got:
        assert got
        assert not ours(path)
    assert not path.exists()
    assert ours(path)


def test_given_back_after_an_error(path):
    with pytest.raises(KeyError), lease(path):
        raise KeyError
    assert ours(path)


def test_of_another_process_until_it_is_killed(path, holder):
    assert not ours(path)
    assert not ours(path, "ours")
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, though nobody has collected it
    assert ours(path, "ours")
    assert list(path.parent.iterdir()) == []


def test_the_dead_are_swept_and_the_living_are_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = machine()
    for name, owner in {"a": f"{here}~{dead.pid}~~t", "b": f"{here}~{os.getpid()}~~t", "c": "elsewhere~1~~t"}.items():
        (tmp_path / (name * 64)).write_text(owner)
    sweep(tmp_path)
    assert {path.name[0] for path in tmp_path.iterdir()} == {"b", "c"}
    os.utime(tmp_path / ("c" * 64), (0, 0))
    sweep(tmp_path)  # one of another machine that gives no sign of life
    assert {path.name[0] for path in tmp_path.iterdir()} == {"b"}


@pytest.mark.parametrize("where", [f"{socket.gethostname()}+1", socket.gethostname()])
def test_a_container_of_the_same_name_cannot_be_asked(path, where):
    """Its process ids are others; nor do leases from before there were namespaces in them tell whose theirs are."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path.write_text(f"{where}~{dead.pid}~~t")
    assert where != machine()
    assert not ours(path)
    os.utime(path, (0, 0))
    assert ours(path)


@pytest.mark.parametrize("way", [ours, lambda path: sweep(path.parent)])
def test_what_another_has_taken_over_meanwhile_is_left_alone(tmp_path, monkeypatch, way):
    path = tmp_path / ("a" * 64)
    path.write_text("elsewhere~1~~dead")
    os.utime(path, (0, 0))
    judge = redcloak.runtime.lease._left_by

    def overtaken(*arguments):
        found = judge(*arguments)
        path.unlink()
        path.write_text("elsewhere~1~~faster")
        return found

    monkeypatch.setattr(redcloak.runtime.lease, "_left_by", overtaken)
    assert not way(path)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["elsewhere~1~~faster"]


def test_whether_anybody_is_at_work(tmp_path):
    assert not held(tmp_path)
    with lease(tmp_path / ".driver"):  # the lease of a folder, not of a store
        assert not held(tmp_path)
    with lease(tmp_path / ("a" * 64)):
        assert held(tmp_path)
    assert not held(tmp_path)
    (tmp_path / ("b" * 64)).write_text("elsewhere~1~~t")
    assert held(tmp_path)
    os.utime(tmp_path / ("b" * 64), (0, 0))
    assert not held(tmp_path)


def test_where_nothing_can_be_written_nothing_stays_behind(path, no_room):
    with no_room(), pytest.raises(OSError, match="File too large"):
        ours(path)
    assert not path.exists()  # an empty one would keep everybody out for 30 s
    assert ours(path)


def test_a_run_takes_back_what_its_own_lost_worker_held(path, holder):
    with lease(path, "theirs") as got:
        assert got
        assert not ours(path)


def test_a_holder_elsewhere_lives_while_it_gives_signs(path, monkeypatch):
    path.write_text("another-host~1~run~token")
    assert not ours(path)
    old = time.time() - STALE_SECONDS - 1
    os.utime(path, (old, old))
    assert ours(path)


def test_it_gives_signs(path, monkeypatch):
    monkeypatch.setattr(redcloak.runtime.lease, "BEAT_SECONDS", 0.01)
    with lease(path):
        os.utime(path, (0, 0))
        end = time.monotonic() + 5
        while path.stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_who_was_robbed_leaves_the_new_holder_alone(path):
    with lease(path):
        path.write_text("another-host~1~run~token")
    assert path.exists()


def test_one_without_a_name_may_just_be_beginning(path):
    path.touch()
    assert not ours(path)
    os.utime(path, (0, 0))
    assert ours(path)
