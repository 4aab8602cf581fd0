import pytest

from redcloak.errors import UserError
from redcloak.runtime.matrix import Graph, Node, longest_paths
from redcloak.runtime.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def publish(store, *nodes):
    for node in nodes:
        with store.publish(node.stage, node.version, node.config, node.input_keys) as draft:
            (draft.folder / "x").write_text(node.stage)


def test_the_key_holds_what_can_change_the_result_and_nothing_else():
    base = Node("train", {"steps": 10}, transport={"device": "cpu"}, label="clean")
    assert base.key == Node("train", {"steps": 10}, transport={"device": "cuda"}, label="other").key
    assert base == Node("train", {"steps": 10})
    assert len({base, Node("train", {"steps": 10}), Node("train", {"steps": 11})}) == 2
    others = [
        Node("tune", {"steps": 10}),
        Node("train", {"steps": 11}),
        Node("train", {"steps": 10}, version=2),
        Node("train", {"steps": 10}, {"images": base}),
        Node("train", {"steps": 10}, {"photos": base}),
        Node("train", {"steps": 10}, {"images": Node("train", {"steps": 12})}),
    ]
    assert len({node.key for node in [base, *others]}) == 7


def test_the_node_and_the_store_agree_on_the_key(store):
    source = Node("photos", {"n": 4})
    node = Node("purify", {"sizes": (1, 2), "zero": -0.0}, {"images": source}, version=3)
    publish(store, node)
    assert store.open(node.key).manifest.inputs == {"images": source.key}


def test_shared_nodes_are_kept_once(diamond):
    graph, photos, purified, _ = diamond
    again = graph.add("purify", {"with": "jpeg"}, {"images": photos}, transport={"device": "cuda"}, label="x")
    assert again is purified[0]
    assert len(graph.order()) == 6


def test_a_node_keeps_its_own_copy_of_the_configuration():
    config = {"sizes": [1]}
    node = Graph().add("purify", config)
    config["sizes"].append(2)
    assert node.key == Node("purify", {"sizes": (1,)}).key


def test_what_cannot_be_a_node_is_refused(diamond):
    graph = diamond[0]
    with pytest.raises(UserError, match=r"purify\.sigma = nan: not a finite number"):
        graph.add("purify", {"sigma": float("nan")})
    with pytest.raises(ValueError, match="'images' is not in this graph"):
        graph.add("score", {}, {"images": Node("photos", {"n": 5})})
    with pytest.raises(ValueError, match="a target is not in this graph"):
        graph.split(lambda _: None, [Node("photos", {"n": 5})])


def test_order_is_topological(diamond):
    graph, photos, purified, scores = diamond
    order = graph.order()
    assert order == (photos, *purified, *scores)
    assert all(order.index(source) < order.index(node) for node in order for source in node.inputs.values())
    assert graph.sinks() == tuple(scores)


def test_only_what_missing_targets_need_is_needed(diamond, store):
    graph, photos, purified, scores = diamond
    assert graph.split(store.find)[0] == graph.order()
    publish(store, scores[0])
    assert graph.split(store.find)[0] == (photos, purified[1], *scores[1:])
    publish(store, purified[1])
    assert graph.split(store.find, [scores[1]])[0] == (scores[1],)
    assert graph.split(store.find, [scores[0]])[0] == ()
    missing, present = graph.split(store.find, [scores[1], scores[0]])
    assert (missing, present) == ((scores[1],), (purified[1], scores[0]))


def test_longest_paths(diamond):
    graph, photos, purified, scores = diamond
    cost = {photos: 1.0, purified[0]: 2.0, purified[1]: 10.0, scores[0]: 5.0, scores[1]: 0.5, scores[2]: 0.5}
    paths = longest_paths(graph.order(), cost.__getitem__)
    assert [paths[node.key] for node in (photos, *purified, *scores)] == [11.5, 7.0, 10.5, 5.0, 0.5, 0.5]


def test_a_shared_configuration_gives_the_same_key():
    from redcloak.runtime.manifest import SCHEMA, Canonical, artifact_key, key_of

    config = {"name": 'a "quoted" ß', "sizes": (1, 2.0, -0.0), "deep": {"b": None, "a": True}}
    inputs = {"photos": "ab" * 32, "class_images": "cd" * 32}
    whole = {"schema": SCHEMA, "stage": "train", "version": 3, "config": config, "inputs": inputs}
    assert artifact_key("train", 3, config, inputs) == key_of(whole)
    assert artifact_key("train", 3, Canonical(config), dict(reversed(inputs.items()))) == key_of(whole)
    graph, shared = Graph(), Canonical({"steps": 1})
    assert graph.add("train", shared).config is shared
