"""What a run of a graph would cost, by the nearest thing that was measured."""

import json
from types import SimpleNamespace

import pytest

from redcloak.api import Needs
from redcloak.runtime.execute import _experience
from redcloak.runtime.matrix import Graph, kin_of
from redcloak.runtime.plan import BYTES, MODEL, PRIORS, History, Past, groups_of, plan
from redcloak.runtime.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def publish(store, *nodes, memory=None):
    for node in nodes:
        with store.publish(node.stage, node.version, node.config, node.input_keys) as draft:
            (draft.folder / "x").write_bytes(bytes(1000))
            draft.peak_memory_mb = memory


class Measured:
    """A store in which every artifact took the seconds that ``took`` says of its key."""

    def __init__(self, store, took):
        self.store, self.took = store, took

    def __getattr__(self, name):
        return getattr(self.store, name)

    def manifests(self):
        for each in self.store.manifests():
            yield SimpleNamespace(**vars(each) | {"wall_seconds": self.took[each.key]})


def test_a_plan_counts_and_estimates(diamond, store, tmp_path):
    graph, photos, _, scores = diamond
    publish(store, photos, scores[0])
    measured = Measured(store, {photos.key: 3.0, scores[0].key: 2.0})
    made = plan(graph, measured, 2, tmp_path)
    rows = [(row.stage, row.total, row.cached, row.missing, row.seconds, row.source) for row in made.rows]
    assert rows == [
        ("photos", 1, 1, 0, 0.0, "measured"),
        ("purify", 2, 1, 1, PRIORS["purify"], "prior"),  # the other is missing too, but what it is for is there
        ("score", 3, 1, 2, 4.0, "measured"),
    ]
    assert (made.missing, made.seconds, made.elapsed) == (3, 5.0, 3.0)  # the chain of one purifier and its score
    assert json.loads(json.dumps(made.to_json()))["rows"][1]["seconds"] == 1.0


def test_the_time_of_a_plan_is_bounded_by_the_workers(tmp_path):
    graph = Graph()
    for index in range(6):
        graph.add("score", {"index": index})
    assert [plan(graph, None, n, tmp_path).elapsed for n in (1, 4, 100)] == [12.0, 3.0, 2.0]


def test_of_a_stage_that_was_never_heard_of_nothing_is_known(tmp_path):
    graph = Graph()
    node = graph.add("dream", {}, needs=Needs(memory_mb=300.0))
    (row,) = plan(graph, None, 1, tmp_path, [node]).rows
    assert (row.source, row.seconds_each, row.seconds, row.memory_mb) == ("unknown", None, 0.0, 300.0)


def test_disk_is_guessed_by_the_stage_or_weighed(diamond, store, tmp_path):
    graph, photos, purified, _ = diamond
    graph.add("personalize", {}, {"photos": photos})
    sizes = {row.stage: row.bytes for row in plan(graph, None, 1, tmp_path).rows}
    assert (sizes["photos"], sizes["purify"], sizes["personalize"]) == (BYTES["photos"], 2 * BYTES["purify"], MODEL)
    assert {row.stage: row.bytes for row in plan(graph, None, 1, tmp_path, model=7).rows}["personalize"] == 7
    publish(store, purified[0])
    found = {row.stage: row for row in plan(graph, store, 1, tmp_path).rows}
    manifest = (store.path(purified[0].key) / "stage.json").stat().st_size
    assert found["purify"].missing == 1
    assert found["purify"].bytes == 1000 + manifest


def test_what_a_run_schedules_by_is_what_a_plan_tells(diamond, store):
    _, photos, purified, scores = diamond
    publish(store, photos, scores[0], memory=700.0)
    took = {photos.key: 3.0, scores[0].key: 8.0}
    seconds, needs = _experience(Measured(store, took))
    assert [seconds(node) for node in (photos, purified[0], scores[1])] == [3.0, PRIORS["purify"], 8.0]
    assert seconds(Graph().add("dream", {})) == 1.0
    assert [needs(node).memory_mb for node in (scores[1], purified[0])] == [700.0, 0.0]


def test_the_nearest_past_is_that_of_the_same_settings_then_of_the_method_then_of_the_stage():
    history = History(None)
    configs = [{"method": {"name": n, "settings": {"steps": s}}, "seed": 0} for n, s in (("a", 1), ("a", 2), ("b", 1))]
    for seconds, each in enumerate(configs, start=1):
        for group in groups_of("protect", each):
            history.groups.setdefault(group, Past()).seconds.append(seconds)

    def seconds(name, steps):
        groups = groups_of("protect", {"method": {"name": name, "settings": {"steps": steps}}, "seed": 9})
        past, source = history.find(groups)
        return past.seconds, source

    assert [seconds("a", 1), seconds("a", 3)] == [([1], "measured"), ([1, 2], "measured")]
    assert seconds("c", 1) == ([1, 2, 3], "prior")  # other methods: a guess
    assert history.find(groups_of("purify", {"chain": []})) is None


def test_what_ran_with_other_models_measures_nothing():
    configs = [{"method": {"name": "a", "weights": {"backbone": weights}}, "seed": 0} for weights in ("x", "y")]
    mine, other = (kin_of("personalize", each) for each in configs)
    assert mine == ("personalize", "x") != other
    assert kin_of("score", {"metrics": [{"weights": {"faces": "f"}}, {"name": "q"}], "weights": "w"}) == (
        "score",
        "f",
        "w",
    )
    history = History(None)
    for group in groups_of("personalize", configs[0]):
        history.groups[group] = Past([9.0])
    assert history.find(groups_of("personalize", configs[0]))[1] == "measured"
    assert history.find(groups_of("personalize", configs[1]))[1] == "prior"
