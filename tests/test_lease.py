import os
import socket
import subprocess
import sys
import time

import pytest

import redcloak.lease
from redcloak.lease import STALE_SECONDS, lease, sweep

HOLDER = """
import pathlib, sys, time
from redcloak.lease import lease
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


def held(path, run=""):
    with lease(path, run) as ours:
        return ours


def test_one_at_a_time_and_given_back(path):
    with lease(path) as ours:
        assert ours
        assert not held(path)
    assert not path.exists()
    assert held(path)


def test_given_back_after_an_error(path):
    with pytest.raises(KeyError), lease(path):
        raise KeyError
    assert held(path)


def test_of_another_process_until_it_is_killed(path, holder):
    assert not held(path)
    assert not held(path, "ours")
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, though nobody has collected it
    assert held(path, "ours")
    assert list(path.parent.iterdir()) == []


def test_the_dead_are_swept_and_the_living_are_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    for name, owner in {"a": f"{host}~{dead.pid}~~t", "b": f"{host}~{os.getpid()}~~t", "c": "elsewhere~1~~t"}.items():
        (tmp_path / (name * 64)).write_text(owner)
    sweep(tmp_path)
    assert {path.name[0] for path in tmp_path.iterdir()} == {"b", "c"}


def test_a_run_takes_back_what_its_own_lost_worker_held(path, holder):
    with lease(path, "theirs") as ours:
        assert ours
        assert not held(path)


def test_a_holder_elsewhere_lives_while_it_gives_signs(path, monkeypatch):
    path.write_text("another-host~1~run~token")
    assert not held(path)
    old = time.time() - STALE_SECONDS - 1
    os.utime(path, (old, old))
    assert held(path)


def test_it_gives_signs(path, monkeypatch):
    monkeypatch.setattr(redcloak.lease, "BEAT_SECONDS", 0.01)
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
    assert not held(path)
    os.utime(path, (0, 0))
    assert held(path)
