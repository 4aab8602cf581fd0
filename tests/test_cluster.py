import os
import signal
from collections import Counter

import pytest
from toy_stages import FUNCTION, contents, lattice, lines

from redcloak.api import Needs
from redcloak.errors import UserError
from redcloak.runtime.cluster import Cluster, _ray
from redcloak.runtime.execute import Event, run
from redcloak.runtime.matrix import Graph
from redcloak.runtime.store import Store
from redcloak.runtime.work import Task

QUICK = {"health_check_period_ms": 500, "health_check_failure_threshold": 2, "health_check_initial_delay_ms": 0}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A cluster of two nodes on this machine; the second is for the tests to kill."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]))
    ray = _ray()
    from ray.cluster_utils import Cluster as Machines

    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": QUICK, "object_store_memory": 100 << 20}
    machines = Machines(initialize_head=True, head_node_args=head)
    machines.add_node(num_cpus=1, object_store_memory=100 << 20)
    yield machines
    ray.shutdown()
    machines.shutdown()
    patch.undo()


def test_a_node_is_killed_in_the_middle_and_the_result_is_the_same(nodes, tmp_path):
    expected, store, log = Store(tmp_path / "expected"), Store(tmp_path / "store"), tmp_path / "log"
    run(lattice(tmp_path / "other")[0], expected, FUNCTION)
    events: list[Event] = []

    def strike(event):
        events.append(event)
        if len(events) == 6:
            nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)

    run(lattice(log, 0.2)[0], store, FUNCTION, executor=f"ray:{nodes.address}", threads=1, on_event=strike)
    assert contents(store) == contents(expected)
    assert all(store.open(key) for key in contents(store))
    kinds = Counter(event.kind for event in events)
    assert kinds["finished"] == 12
    assert len({line[2] for line in lines(log)}) in (2, 3)  # actors were reused
    assert {line[3] for line in lines(log)} == {"1"}
    assert [list((store.root / name).iterdir()) for name in ("quarantine", "leases")] == [[], []]


def test_a_lost_worker_costs_one_task(nodes, tmp_path):
    store, log, struck = Store(tmp_path / "store"), tmp_path / "log", []

    def strike(event):
        if event.kind == "finished" and not struck:
            struck.append(event.node)
            os.kill(int(lines(log)[-1][2]), signal.SIGKILL)

    run(lattice(log, 0.05)[0], store, FUNCTION, executor=f"ray:{nodes.address}", on_event=strike)
    assert len(contents(store)) == 12
    assert len(lines(log)) in (12, 13)


def test_needs_that_no_node_has(nodes, tmp_path):
    graph = Graph()
    graph.add("train", {"name": "x"}, needs=Needs(gpus=1))
    with pytest.raises(UserError, match="no node of the cluster has 1 GPU"):
        run(graph, Store(tmp_path), FUNCTION, executor=f"ray:{nodes.address}")


@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1:1", "nobody answers there"), ("host", "not an address; write it as ray:HOST:PORT")],
)
def test_an_address_that_is_none(tmp_path, address, words):
    graph = Graph()
    graph.add("train", {"name": "x"})
    with pytest.raises(UserError, match=rf"^executor = 'ray:{address}': {words}"):
        run(graph, Store(tmp_path), FUNCTION, executor=f"ray:{address}")


def test_actors_are_few_and_make_room():
    cluster = Cluster("store")
    cluster.known = (float("inf"), [{"CPU": 4.0, "GPU": 1.0, "memory": 8 * 2.0**30}, {"CPU": 2.0, "memory": 2.0**32}])
    assert cluster._shape(Needs(99, 0, 1)) == Needs(4, 0, 0)
    assert cluster._shape(Needs(1, 1, 2500)) == Needs(1, 1, 4096)
    assert cluster._shape(Needs(1, 0, 1e9)) == Needs(1, 0, 8192)
    small, large = Needs(), Needs(4, 1, 4096)
    cluster._hire = lambda needs: cluster.actors.append(actor(needs)) or cluster.actors[-1]
    cluster._dismiss = cluster.actors.remove
    for _ in range(3):
        cluster._hire(small)
    assert cluster._at_rest(Needs(0.5)) is cluster.actors[0]
    assert cluster._at_rest(large) is None
    assert cluster._room(Needs(3)) == []
    assert cluster._room(large) == cluster.actors[:1]  # one at rest goes, so that it has room
    for idle in cluster.actors:
        idle.task = "busy"
    assert cluster._room(large) is None


def test_a_head_without_cores_is_no_measure_while_no_other_node_is_there():
    cluster = Cluster("store")
    head, worker = {"memory": 8 * 2.0**30}, {"CPU": 4.0, "GPU": 1.0, "memory": 2.0**31}

    def there(*nodes):
        cluster.known = (float("inf"), nodes)

    there(head)
    with pytest.raises(UserError, match="no node of the cluster has 1 GPU"):
        cluster._shape(Needs(1, 1))
    assert cluster._shape(Needs(8, 0, 4096)) == Needs(8)
    assert cluster.fits(Needs())  # Ray is asked for it, so that a cluster that grows does
    cluster.actors.append(actor(Needs(8)))
    cluster.actors[0].task = task(Needs(8, 0, 4096))
    assert not cluster.fits(Needs())
    there(head, worker)
    assert cluster.fits(Needs(1, 1)) is False  # the one that waits comes first
    assert cluster._shape(Needs(8, 1, 4096)) == Needs(4, 1, 2048)
    there(head)
    assert cluster._shape(Needs(1, 1)) == Needs(1, 1)  # gone for now is not never there


def test_a_task_that_waits_for_a_node_takes_the_one_that_comes(monkeypatch):
    cluster, given = Cluster("store"), []
    monkeypatch.setattr(cluster, "_hire", actor)
    monkeypatch.setattr(cluster, "_dismiss", cluster.actors.remove)
    monkeypatch.setattr(cluster, "_give", lambda actor, task: given.append((actor.needs, task)))
    waiting = actor(Needs(8))
    waiting.task = task(Needs(8, 0, 4096))
    cluster.actors.append(waiting)
    cluster.known = (float("inf"), [{"CPU": 4.0, "memory": 2.0**33}])
    cluster._rehouse(waiting)
    assert given == []  # it may just be starting
    waiting.since -= 60
    cluster._rehouse(waiting)
    assert given == [(Needs(4, 0, 4096), waiting.task)]
    assert cluster.actors == []


def test_a_worker_may_come_after_the_run_has_begun(tmp_path, monkeypatch):
    """The head has no cores, as in Kubernetes: nothing may run there."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]))
    _ray()
    from ray.cluster_utils import Cluster as Machines

    small = {"object_store_memory": 100 << 20}
    machines = Machines(initialize_head=True, head_node_args=small | {"num_cpus": 0, "include_dashboard": False})
    wait, added = Cluster.wait, []

    def late(cluster, *arguments):
        if not added:
            added.append(machines.add_node(num_cpus=1, **small))
        wait(cluster, *arguments)

    monkeypatch.setattr(Cluster, "wait", late)
    try:
        run(lattice(tmp_path / "log")[0], Store(tmp_path / "store"), FUNCTION, executor=f"ray:{machines.address}")
    finally:
        machines.shutdown()
    assert len(lines(tmp_path / "log")) == 12
    assert len({line[2] for line in lines(tmp_path / "log")}) == 1  # one core, one worker


def task(needs):
    return Task("key", "", "", 1, {}, {}, {}, needs)


def actor(needs):
    from redcloak.runtime.cluster import _Actor

    return _Actor(None, needs)
