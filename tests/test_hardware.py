import os

import pytest

from redcloak.api import Method, Needs
from redcloak.runtime.hardware import Hardware, cores, gpus, memory_mb


@pytest.fixture
def machine(tmp_path):
    """A root whose process lives in the control group /job/step."""

    def make(**files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text("0::/job/step\n")
        (tmp_path / "sys/fs/cgroup/job/step").mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")).write_text(text)
        return tmp_path

    return make


def test_a_control_group_may_allow_less_memory_than_there_is(machine):
    assert memory_mb(machine(memory_dot_max="max\n", job__memory_dot_max=f"{3 * 2**30}\n")) == 3 * 1024


def test_without_a_limit_it_is_the_machines(machine):
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    assert memory_mb(machine(job__step__memory_dot_max="max\n")) == total


def test_a_quota_of_cores_counts(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert cores(machine(job__cpu_dot_max="350000 100000\n", cpu_dot_max="max 100000\n")) == 3


def test_half_a_core_is_one(machine):
    assert cores(machine(job__step__cpu_dot_max="50000 100000\n")) == 1


@pytest.mark.parametrize(
    ("visible", "found"), [("0,2", ("0", "2")), ("", ()), ("-1", ()), ("GPU-8f, GPU-1c", ("GPU-8f", "GPU-1c"))]
)
def test_the_environment_says_which_gpus(monkeypatch, visible, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == found


def test_else_the_driver_lists_them(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus(tmp_path) == ()
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "proc/driver/nvidia/gpus" / bus).mkdir(parents=True)
    assert gpus(tmp_path) == ("0", "1")


def test_here_there_is_something():
    here = Hardware.here()
    assert here.cores >= 1
    assert here.memory_mb > 100


def test_what_a_method_takes():
    light, model = Method("light", ""), Method("model", "", needs=("backbone",))
    shared = Method("shared", "", needs=("clip",), resources=Needs(cpus=4, gpus=0.25, memory_mb=2000))
    assert (light.takes("cuda"), model.takes("cuda:1"), model.takes("cpu")) == (Needs(), Needs(gpus=1), Needs())
    assert shared.takes("cpu") == Needs(4, 0, 2000)
    assert Needs.together([model.takes("cuda"), shared.takes("cuda")]) == Needs(4, 1, 2000)
    assert Needs.together([]) == Needs()
