import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import toy_stages
from toy_stages import FUNCTION, contents, lattice, lines

from redcloak.api import Needs
from redcloak.errors import UserError
from redcloak.runtime.execute import Event, StageError, run
from redcloak.runtime.hardware import Hardware
from redcloak.runtime.matrix import Graph
from redcloak.runtime.pool import Pool, _interrupts_held, _Worker
from redcloak.runtime.store import Store
from redcloak.runtime.work import Task, _peak_memory_mb

BOTH = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files of every artifact of the lattice, from one run that nothing disturbed."""
    store = Store(tmp_path_factory.mktemp("expected"))
    run(lattice(store.root / "log")[0], store, FUNCTION)
    return contents(store)


def computed(log):
    return Counter(tuple(line[:2]) for line in lines(log))


def gone(pid):
    """Whether a process has ended (a zombie that nobody has collected has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def start(store, log, workers, seconds):
    """A driver in a process and group of its own."""
    command = [sys.executable, toy_stages.__file__, store.root, log, workers, seconds]
    return subprocess.Popen(
        list(map(str, command)),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@BOTH
def test_every_node_runs_once_and_never_again(store, log, expected, workers):
    graph, _ = lattice(log)
    events: list[Event] = []
    run(graph, store, FUNCTION, workers=workers, on_event=events.append)
    assert contents(store) == expected
    assert set(computed(log).values()) == {1}
    assert Counter(event.kind for event in events) == {"started": 12, "progress": 24, "finished": 12}
    for node in graph.order():
        own = [event for event in events if event.node is node]
        assert [event.kind for event in own] == ["started", "progress", "progress", "finished"]
        assert [(e.done, e.total, e.values) for e in own[1:3]] == [
            (1, 2, {"loss": 0.5}),
            (2, 2, {"loss": 0.25}),
        ]
        assert own[-1].seconds > 0
    finished = [event.node for event in events if event.kind == "finished"]
    assert all(finished.index(s) < finished.index(node) for node in finished for s in node.inputs.values())
    again: list[Event] = []
    run(graph, store, FUNCTION, workers=workers, on_event=again.append)
    assert [(event.kind, event.node.stage) for event in again] == [("cached", "report")]
    assert len(lines(log)) == 12


def test_workers_are_reused_and_share_the_cores(store, log, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(Hardware, "here", lambda: Hardware(8, 1e6))
    run(lattice(log, 0.02)[0], store, FUNCTION, workers=2)
    pids, threads = ({line[column] for line in lines(log)} for column in (2, 3))
    assert len(pids) == 2
    assert str(os.getpid()) not in pids
    assert threads == {"4"}
    assert "OMP_NUM_THREADS" not in os.environ
    assert all(map(gone, pids))


def test_the_manifest_says_what_the_stage_reported(store, log):
    graph, _ = lattice(log)
    run(graph, store, FUNCTION, targets=graph.order()[:1])
    (manifest,) = store.manifests()
    assert (manifest.stage, manifest.notes) == ("classes", {"name": "shared"})


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the mark cannot be reset here")
def test_peak_memory_is_of_the_stage_and_not_of_what_was_before(store, log):
    ballast = [b"x" * 300_000_000]
    before = _peak_memory_mb()
    ballast.clear()
    graph, _ = lattice(log)
    run(graph, store, FUNCTION, targets=graph.order()[:1])
    (manifest,) = store.manifests()
    assert ballast == []
    assert 5 < manifest.peak_memory_mb < before - 50


def test_the_longest_chain_goes_first(store, log, monkeypatch):
    submit, given = Pool.submit, []
    monkeypatch.setattr(Pool, "submit", lambda pool, task: given.append(task) or submit(pool, task))
    graph, transport = Graph(), {"log": str(log), "seconds": 0.05}
    for name in ("s1", "s2"):
        graph.add("short", {"name": name}, transport=transport)
    node = graph.add("long", {"name": "0"}, transport=transport)
    for index in range(1, 3):
        node = graph.add("long", {"name": str(index)}, {"x": node}, transport=transport)
    run(graph, store, FUNCTION, workers=2)
    # as they were given out: a worker that wakes up late may begin after another's second task
    assert (given[0].stage, given[0].config["name"]) == ("long", "0")


@BOTH
@pytest.mark.parametrize("file", ["value.txt", "deep/half.txt", "stage.json"])
def test_a_flipped_bit_costs_one_stage(store, log, expected, workers, file):
    graph, _ = lattice(log)
    run(graph, store, FUNCTION)
    victim = next(node for node in graph.order() if node.stage == "protect")
    path = store.path(victim.key) / file
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    log.unlink()
    run(graph, store, FUNCTION, workers=workers)
    assert not log.exists()  # what it was for is there
    run(graph, store, FUNCTION, targets=[victim], workers=workers)
    assert computed(log) == {("protect", victim.config["name"]): 1}
    assert contents(store) == expected


def kill_after(seconds, store, log, workers):
    """Kill a driver, and it alone, some time after its first stage began: its exit status, and its lines."""
    before = len(lines(log))
    driver = start(store, log, workers, 0.05)
    wait_for(lambda: len(lines(log)) > before or driver.poll() is not None)
    time.sleep(seconds)
    driver.kill()
    driver.communicate(timeout=10)
    wait_for(lambda: all(gone(line[2]) for line in lines(log)), seconds=3)
    return driver.returncode, lines(log)[before:]


@BOTH
def test_killed_at_any_moment_it_resumes(store, log, expected, workers):
    moments = random.Random(workers)
    for moment in range(5):
        done = {(manifest.stage, manifest.config["name"]) for manifest in store.manifests()}
        status, begun = kill_after(moments.uniform(0, 0.15), store, log, workers)
        assert status == -signal.SIGKILL or moment > 0
        assert done.isdisjoint((stage, name) for stage, name, *_ in begun)
        assert contents(store).items() <= expected.items()
        assert all(store.open(key) for key in contents(store))
    done, begun = len(contents(store)), len(lines(log))
    run(lattice(log)[0], Store(store.root), FUNCTION, workers=workers)
    assert contents(store) == expected
    assert len(lines(log)) - begun == 12 - done
    assert [list((store.root / name).iterdir()) for name in ("tmp", "quarantine")] == [[], []]


@pytest.mark.parametrize("seconds", [0.0, 0.08, 0.2])
def test_ctrl_c_while_the_workers_start(store, log, seconds):
    driver = start(store, log, 2, 30)
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
    if not children.exists():
        pytest.skip("the kernel does not list children")
    wait_for(lambda: len(children.read_text().split()) == 3)  # two workers and the tracker of semaphores
    time.sleep(seconds)
    os.killpg(driver.pid, signal.SIGINT)
    output, _ = driver.communicate(timeout=15)
    assert driver.returncode == -signal.SIGINT
    assert output.count("Traceback") == 1


def test_ctrl_c_waits_until_a_worker_is_whole():
    """Also where another thread takes the signal, as that which keeps a lease may."""
    whole, end = [], threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()

    def start_one():
        with _interrupts_held():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            whole.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            start_one()
    finally:
        end.set()
        other.join()
    assert whole == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@BOTH
def test_ctrl_c_ends_cleanly(store, log, workers):
    driver = start(store, log, workers, 30)
    wait_for(lambda: len(lines(log)) == workers)
    os.killpg(driver.pid, signal.SIGINT)
    output, _ = driver.communicate(timeout=15)
    assert driver.returncode == -signal.SIGINT
    assert output.count("Traceback") == output.count("KeyboardInterrupt") == 1  # the driver's own
    assert all(gone(line[2]) for line in lines(log))
    assert list((store.root / "tmp").iterdir()) == []
    assert contents(store) == {}


def failing(stage, log):
    graph, transport = Graph(), {"log": str(log), "seconds": 0.05}
    good = graph.add("clean", {"name": "good"}, transport=transport)
    bad = graph.add(stage, {"name": "bad"}, {"x": good}, transport=transport)
    after = graph.add("score", {"name": "after"}, {"x": bad}, transport=transport)
    graph.add("report", {"name": "end"}, {"x": after}, transport=transport)  # the longest: the bad one goes first
    slow = {"log": str(log), "seconds": 1}
    beside = graph.add("slow", {"name": "beside"}, {"x": good}, transport=slow)
    graph.add("score", {"name": "later"}, {"x": beside}, transport=transport)
    return graph, bad


@BOTH
def test_a_users_mistake_comes_back_as_it_was(store, log, workers):
    graph, bad = failing("mistake", log)
    events: list[Event] = []
    with pytest.raises(UserError, match=r"^budget = 99: too much; give at most 64\.$"):
        run(graph, store, FUNCTION, workers=workers, on_event=events.append)
    assert [event.node for event in events if event.kind == "failed"] == [bad]
    assert store.find(bad.key) is None
    assert "score" not in {stage for stage, _ in computed(log)}
    made = {manifest.stage for manifest in store.manifests()}
    assert made == ({"clean"} if workers == 1 else {"clean", "slow"})  # what ran was finished


@BOTH
def test_a_bug_names_the_stage_and_the_line(store, log, workers):
    with pytest.raises(StageError, match="stage 'bug' failed: KeyError: 'no such tensor'") as caught:
        run(failing("bug", log)[0], store, FUNCTION, workers=workers)
    assert caught.value.stage == "bug"
    assert 'toy_stages.py", line' in str(caught.value)
    assert list((store.root / "tmp").iterdir()) == []


def test_a_worker_that_dies_is_tried_again_and_then_explained(store, log):
    graph, bad = failing("death", log)
    events: list[Event] = []
    with pytest.raises(
        UserError, match=r"death: its worker died 2 times, most likely for want of memory; .* or with `memory: low`"
    ):
        run(graph, store, FUNCTION, workers=2, retries=1, on_event=events.append)
    assert [event.kind for event in events if event.node is bad] == ["started", "progress", "lost"] * 2 + ["failed"]
    assert store.find(bad.key) is None
    assert computed(log)["death", "bad"] == 2
    assert ("score", "after") not in computed(log)
    assert all(gone(line[2]) for line in lines(log))
    assert list((store.root / "tmp").iterdir()) == []


@BOTH
def test_a_failure_need_not_stop_the_others(store, log, workers):
    graph, bad = failing("bug", log)
    events: list[Event] = []
    outcome = run(graph, store, FUNCTION, workers=workers, on_event=events.append, keep_going=True)
    assert [node.stage for node in outcome.failed] == ["bug"]
    assert sorted(node.config["name"] for node in outcome.skipped) == ["after", "end"]
    assert Counter(event.kind for event in events if event.kind not in ("started", "progress")) == {
        "finished": 3,
        "failed": 1,
        "skipped": 2,
    }
    assert computed(log) == {("clean", "good"): 1, ("bug", "bad"): 1, ("slow", "beside"): 1, ("score", "later"): 1}
    (failed,) = store.failures.all()
    assert (failed.key, failed.reason, failed.attempts) == (bad.key, "KeyError: 'no such tensor'", 1)
    assert 'toy_stages.py", line' in failed.trace
    with pytest.raises(StageError, match="no such tensor"):
        outcome.check()
    again = run(graph, store, FUNCTION, workers=workers, keep_going=True)
    assert len(again.failed) == 1
    assert computed(log)["bug", "bad"] == 2
    assert computed(log)["slow", "beside"] == 1
    assert store.failures.get(bad.key).attempts == 2


@BOTH
def test_a_full_disk_ends_the_run_with_one_line(store, log, workers):
    graph, _ = failing("full", log)
    with pytest.raises(UserError, match="the disk is full; free some space and run again"):
        run(graph, store, FUNCTION, workers=workers, keep_going=True)
    assert {manifest.stage for manifest in store.manifests()} <= {"clean", "slow", "score"}
    assert all(store.open(key) for key in contents(store))
    assert list((store.root / "tmp").iterdir()) == []
    assert list((store.root / "leases").iterdir()) == []


def test_a_workers_death_in_the_middle_costs_one_task_and_nothing_else(store, log, expected):
    victims = []

    def strike(event):
        if event.kind == "progress" and not victims:
            victims.append(event.node)
            os.kill(int(lines(log)[-1][2]), signal.SIGKILL)

    run(lattice(log, 0.05)[0], store, FUNCTION, workers=2, on_event=strike)
    assert contents(store) == expected
    assert sum(computed(log).values()) == 13
    assert list((store.root / "tmp").iterdir()) == []


def test_two_drivers_on_one_store_share_the_work(store, log, expected):
    drivers = [start(store, log, 2, 0.2) for _ in range(2)]
    outputs = [driver.communicate(timeout=60)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    assert contents(store) == expected
    assert set(computed(log).values()) == {1}
    assert [list((store.root / name).iterdir()) for name in ("tmp", "quarantine", "leases")] == [[], [], []]


def test_tasks_share_what_there_is_by_need(store):
    pool = Pool(store, 4, hardware=Hardware(4, 1000.0, ("0", "1")))
    assert [pool.fits(Needs(cpus=99)), pool.fits(Needs(memory_mb=5000)), pool.fits(Needs(gpus=1))] == [True] * 3
    with pool:  # what asks for more than there is runs, but alone
        pool.team[0] = busy(Needs(cpus=2, gpus=0.5, memory_mb=600))
        assert pool.fits(Needs(cpus=2, memory_mb=400))
        assert not pool.fits(Needs(cpus=3))
        assert not pool.fits(Needs(memory_mb=401))
        assert [pool._slot(Needs(gpus=share)) for share in (0.5, 1)] == [1, 1]
        pool.team[1] = busy(Needs(cpus=0.5, gpus=1))
        assert [pool._slot(Needs(gpus=share)) for share in (0.5, 0.6)] == [2, None]
        assert pool.fits(Needs(cpus=0.5, gpus=0.5))
        assert not pool.fits(Needs(cpus=0.5, gpus=1))
        pool.team = [None] * 4
    with pytest.raises(UserError, match="no GPU is visible on this machine; use --device cpu"):
        Pool(store, 2, hardware=Hardware(4, 1000.0)).fits(Needs(gpus=1))


@pytest.mark.parametrize("proved", [False, True])
def test_a_worker_that_dies_before_it_is_ready(store, proved):
    """Where none was ever ready workers cannot start here; later it costs the task alone."""
    told = []
    with Pool(store, 1, hardware=Hardware(1, 1000.0)) as pool:
        ours, theirs = pool.context.Pipe()
        process = pool.context.Process(target=os._exit, args=(1,))
        process.start()
        theirs.close()
        process.join()
        worker = pool.team[0] = _Worker(process, ours, None, Task("key", "", "", 1, {}, {}, {}))
        pool.proved = proved
        if proved:
            pool._listen(worker, told.append)
        else:
            with pytest.raises(UserError, match="they could not start"):
                pool._listen(worker, told.append)
    assert [(message.kind, message.key) for message in told] == [("lost", "key")] * proved


def busy(needs):
    return _Worker(None, None, None, Task("", "", "", 1, {}, {}, {}, needs))


def test_an_unknown_executor(store, log):
    with pytest.raises(UserError, match="unknown executor 'rai': did you mean 'ray'"):
        run(lattice(log)[0], store, FUNCTION, executor="rai")


def test_a_function_that_is_not_there(store, log):
    with pytest.raises(StageError, match="has no attribute 'missing'"):
        run(lattice(log)[0], store, "toy_stages:missing")


def test_a_script_without_a_guard_is_told_so(tmp_path, log):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, pathlib, toy_stages as t\nfrom redcloak.runtime.execute import run\n"
        "a, b = map(pathlib.Path, sys.argv[1:])\n"
        "run(t.lattice(b)[0], t.Store(a), t.FUNCTION, workers=2)\n"
    )
    path = os.pathsep.join([str(Path(toy_stages.__file__).parent), *filter(None, sys.path)])
    ended = subprocess.run(
        [sys.executable, script, tmp_path / "store", log],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "UserError: workers = 2: they could not start; call run() under" in ended.stderr
    assert not log.exists()


def test_an_input_that_vanishes_is_told_and_the_next_run_mends_it(store, log, expected):
    graph, _ = lattice(log)
    clean = next(node for node in graph.order() if node.stage == "clean")

    def saboteur(event):
        if event.kind == "finished" and event.node is clean:
            (store.path(clean.key) / "value.txt").unlink()

    with pytest.raises(UserError, match="an input of stage 'protect' was damaged or deleted; run again"):
        run(graph, store, FUNCTION, on_event=saboteur)
    run(graph, store, FUNCTION)
    assert contents(store) == expected


def test_anew_deletes_nothing_before_it_can_start(store, log, expected):
    graph, _ = lattice(log)
    run(graph, store, FUNCTION)

    class Choosy:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def fits(self, needs):
            raise UserError("no GPU is visible")

    with pytest.raises(UserError, match="unknown executor 'rai'"):
        run(graph, store, FUNCTION, executor="rai", anew=True)
    with pytest.raises(UserError, match="no GPU is visible"):
        run(graph, store, FUNCTION, executor=Choosy(), anew=True)
    with store.lease("0" * 64), pytest.raises(UserError, match="a run is at work there"):
        run(graph, store, FUNCTION, anew=True)
    assert contents(store) == expected
    assert len(lines(log)) == 12
    run(graph, store, FUNCTION, anew=True)
    assert contents(store) == expected
    assert len(lines(log)) == 24


def test_nobody_deletes_beside_a_run_from_its_first_look_to_the_end_of_what_is_around_it(store, log):
    told = []

    def delete(event):
        with pytest.raises(UserError, match="a run is at work there"):
            Store(store.root).forget([])
        told.append(event.kind)

    run(lattice(log)[0], store, FUNCTION, on_event=delete)
    assert told.count("finished") == 12
    Store(store.root).forget([])
    with store.at_work():
        run(lattice(log)[0], store, FUNCTION, on_event=delete)
        delete(Event("finished", lattice(log)[1][0]))
        run(lattice(log)[0], store, FUNCTION, anew=True)  # it may itself
    assert told[-2:] == ["cached", "finished"]
    assert len(lines(log)) == 24
    Store(store.root).forget([])
