import pytest

from redcloak.api import Needs
from redcloak.runtime.matrix import Graph
from redcloak.runtime.schedule import Schedule


def anything(needs):
    return True


@pytest.fixture
def graph():
    """a -> b -> d, a -> c; and e alone."""
    graph = Graph()
    a = graph.add("a", {})
    b = graph.add("b", {}, {"x": a})
    graph.add("c", {}, {"x": a})
    graph.add("d", {}, {"x": b, "y": a})
    graph.add("e", {}, needs=Needs(gpus=1))
    return graph


def taken(schedule, fits=anything):
    nodes = []
    while node := schedule.take(fits):
        nodes.append(node)
    return nodes


def names(nodes):
    return sorted(node.stage for node in nodes)


def test_a_node_starts_once_all_it_needs_is_there(graph):
    schedule = Schedule(graph.order())
    a, e = taken(schedule)
    assert (a.stage, e.stage) == ("a", "e")
    schedule.done(e)
    assert taken(schedule) == []
    schedule.done(a)
    b, c = taken(schedule)
    assert (b.stage, c.stage) == ("b", "c")  # d waits for b
    schedule.done(c)
    assert taken(schedule) == []
    schedule.done(b)
    assert names(taken(schedule)) == ["d"]


def test_the_longest_chain_first_whatever_its_shape(graph):
    cost = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 10.0}
    schedule = Schedule(graph.order(), lambda node: cost[node.stage])
    assert [node.stage for node in taken(schedule)] == ["e", "a"]


def test_what_does_not_fit_waits_and_holds_nobody_up(graph):
    schedule = Schedule(graph.order(), needs=lambda node: node.needs)
    assert names(taken(schedule, lambda needs: not needs.gpus)) == ["a"]
    assert names(taken(schedule)) == ["e"]


def test_a_failure_takes_what_needs_it_and_nothing_else(graph):
    schedule = Schedule(graph.order())
    a, e = taken(schedule)
    schedule.done(a)
    b, c = taken(schedule)
    assert names(schedule.failed(b)) == ["d"]
    assert names(schedule.failed(e)) == []
    schedule.done(c)
    assert taken(schedule) == []


def test_a_node_is_skipped_once_though_two_of_its_inputs_fail():
    graph = Graph()
    left, right = graph.add("left", {}), graph.add("right", {})
    graph.add("both", {}, {"l": left, "r": right})
    schedule = Schedule(graph.order())
    assert names(taken(schedule)) == ["left", "right"]
    assert names(schedule.failed(left)) == ["both"]
    assert schedule.failed(right) == []
    assert taken(schedule) == []


def test_a_node_that_is_put_off_comes_back_in_time(graph):
    now = [0.0]
    schedule = Schedule(graph.order(), clock=lambda: now[0])
    (first, _) = taken(schedule)
    assert schedule.next_in() is None
    schedule.again(first, 5.0)
    now[0] = 2.0
    assert schedule.next_in() == 3.0
    assert taken(schedule) == []
    now[0] = 5.0
    assert taken(schedule) == [first]
