"""What of a store nobody needs any more, on a graph of toy stages."""

from dataclasses import dataclass

import pytest

from redcloak.bench.garbage import collect, garbage
from redcloak.errors import UserError
from redcloak.runtime.matrix import Graph, Node
from redcloak.runtime.store import Store


@dataclass
class Wanted:
    graph: Graph
    ends: list[Node]

    def targets(self) -> list[Node]:
        return self.ends


def drawing(*prompts: str, swapped: bool = False) -> Wanted:
    """Pictures of one model for each prompt; drawn from the model itself, or from one that takes its words."""
    graph = Graph()
    photos = graph.add("photos", {"name": "ann"})
    model = graph.add("personalize", {"steps": 1}, {"photos": photos})
    if swapped:
        donor = graph.add("personalize", {"steps": 2}, {"photos": photos})
        model = graph.add("swap", {}, {"model": model, "donor": donor})
    return Wanted(graph, [graph.add("generate", {"prompt": prompt}, {"model": model}) for prompt in prompts])


def make(store: Store, *nodes: Node) -> None:
    for node in nodes:
        with store.publish(node.stage, node.version, node.config, node.input_keys):
            pass


def stages(store: Store, *wanted: Wanted, models: bool = True) -> list[str]:
    return [stage for _, stage, _ in garbage(store, wanted, models).artifacts]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def test_a_model_that_one_matrix_still_needs_is_kept_in_either_order(store):
    drawn, waiting = drawing("a"), drawing("a", "b")
    make(store, *drawn.graph.order())
    assert stages(store, drawn) == ["personalize"]
    assert stages(store, drawn, models=False) == []
    assert stages(store, drawn, waiting) == stages(store, waiting, drawn) == []
    make(store, waiting.ends[1])
    assert stages(store, drawn, waiting) == ["personalize"]


def test_a_model_whose_words_another_takes_is_needed_until_that_one_has_drawn(store):
    plain, swapped = drawing("a"), drawing("a", swapped=True)
    make(store, *plain.graph.order(), *swapped.graph.order()[:3])
    assert [node.stage for node in swapped.graph.order()[:3]] == ["photos", "personalize", "personalize"]
    assert stages(store, plain, swapped) == []
    make(store, swapped.graph.order()[3])
    assert stages(store, plain, swapped) == [
        "personalize",
        "personalize",
    ]  # it is drawn from the swap
    make(store, *swapped.ends)
    assert sorted(stages(store, plain, swapped)) == ["personalize", "personalize", "swap"]


def test_a_state_and_a_failure_are_kept_while_somebody_goes_on_from_them(store):
    wanted = drawing("a")
    photos, model, pictures = wanted.graph.order()
    make(store, photos)
    for key in (photos.key, pictures.key, "f" * 64):
        store.failures.record(key, "x", "x", "it broke", "")
    for key in (model.key, "f" * 64):
        store.partial(key).mkdir(parents=True)
        (store.partial(key) / "state").write_bytes(b"x" * 100)
    found = garbage(store, [wanted])
    assert set(found.failures) == {photos.key, "f" * 64}  # the one succeeded since, nobody needs the other
    assert found.leftovers == 100
    collect(store, found)
    assert [each.key for each in store.failures.all()] == [pictures.key]
    assert [path.name for path in (store.root / "partial").iterdir()] == [model.key]


def test_nothing_is_collected_beside_a_run(store):
    wanted = drawing("a")
    make(store, *wanted.graph.order())
    store.failures.record("f" * 64, "x", "x", "it broke", "")
    found = garbage(store, [], models=True)
    with store.lease("0" * 64), pytest.raises(UserError, match="a run is at work there"):
        collect(store, found)
    assert len(store.keys()) == 3
    assert len(list(store.failures.all())) == 1
    collect(store, found)
    assert store.keys() == frozenset()
