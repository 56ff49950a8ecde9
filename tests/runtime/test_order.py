"""Lanes and waits as an order of steps, beside all ways through the graph that they are."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from jitinfer.runtime.order import Order


@st.composite
def laned(draw, most=12):
    """Lanes, and for each step some of the steps before it."""
    lanes = draw(st.lists(st.integers(0, 2), min_size=1, max_size=most))
    after = [draw(st.sets(st.integers(0, step - 1), max_size=3)) if step else set() for step in range(len(lanes))]
    return lanes, after


def ancestors(lanes, after):
    """Of each step, all that have ended when it begins."""
    found = []
    for step, lane in enumerate(lanes):
        direct = set(after[step]) | {each for each in range(step) if lanes[each] == lane}
        found.append(direct.union(*(found[each] for each in direct)))
    return found


@given(laned())
@settings(max_examples=300, deadline=None)
def test_what_precedes_what(plan):
    lanes, after = plan
    order, known = Order(lanes, after), ancestors(lanes, after)
    steps = range(len(lanes))
    for one, other in itertools.product(steps, steps):
        assert order.precedes(one, other) == (one in known[other])
    beside = {(one, other) for one, other in itertools.combinations(steps, 2) if one not in known[other]}
    found = list(order.beside())
    assert set(found) == beside
    assert len(found) == len(beside)


@given(laned(), st.data())
@settings(max_examples=300, deadline=None)
def test_steps_meet_that_neither_end_before_the_others_nor_behind_them(plan, data):
    lanes, after = plan
    order, known = Order(lanes, after), ancestors(lanes, after)
    some = st.sets(st.sampled_from(range(len(lanes))), min_size=1)
    one, other = data.draw(some), data.draw(some)

    def before(these, those):
        return all(a in known[b] for a in these for b in those)

    assert order.meet(order.span(one), order.span(other)) == (not before(one, other) and not before(other, one))


@given(laned())
@settings(max_examples=300, deadline=None)
def test_waits_that_others_imply_are_not_needed(plan):
    lanes, after = plan
    order = Order(lanes, after)
    fewer, last = [], {}
    for step, lane in enumerate(lanes):
        fewer.append(order.needed([each for each in after[step] if lanes[each] != lane], last.get(lane)))
        last[lane] = step
    assert ancestors(lanes, fewer) == ancestors(lanes, after)
    for step, waits in enumerate(fewer):
        assert list(waits) == sorted(waits)
        for wait in waits:  # without any one of them the order is another
            changed = [set(each) - {wait} if number == step else each for number, each in enumerate(fewer)]
            assert ancestors(lanes, changed) != ancestors(lanes, after)


def test_one_after_the_other():
    order = Order.in_turn(3)
    assert order.precedes(0, 2)
    assert not order.precedes(1, 1)
    assert list(order.beside()) == []
    assert list(Order.in_turn(0).beside()) == []
