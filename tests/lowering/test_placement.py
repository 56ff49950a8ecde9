"""Buffers in one arena: never two in one place at one time, and little more room than the busiest step needs."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from jitinfer.lowering.placement import Lifetime, place
from jitinfer.runtime.order import Order
from jitinfer.runtime.plan import ALIGNMENT, aligned


@st.composite
def lifetimes(draw):
    found = []
    for number in range(draw(st.integers(0, 25))):
        first = draw(st.integers(0, 30))
        last = first + draw(st.integers(0, 8))
        found.append(Lifetime(f"b{number}", draw(st.integers(0, 5000)), tuple(sorted({first, last}))))
    return found


@st.composite
def laned(draw):
    """Lifetimes of steps on lanes, with the order of these, and of each step those that have ended before."""
    steps = draw(st.integers(1, 12))
    lanes = draw(st.lists(st.integers(0, 2), min_size=steps, max_size=steps))
    after = [draw(st.sets(st.integers(0, step - 1), max_size=2)) if step else set() for step in range(steps)]
    known = []
    for step, lane in enumerate(lanes):
        direct = after[step] | {each for each in range(step) if lanes[each] == lane}
        known.append(direct.union(*(known[each] for each in direct)))
    some = st.sets(st.integers(0, steps - 1), min_size=1, max_size=4).map(lambda found: tuple(sorted(found)))
    users = draw(st.lists(some, max_size=12))
    found = [Lifetime(f"b{i}", draw(st.integers(0, 5000)), each) for i, each in enumerate(users)]
    return found, Order(lanes, after), known


def held_at(lifetimes, step):
    return sum(aligned(each.nbytes) for each in lifetimes if each.steps[0] <= step <= each.steps[-1])


def apart(placement, one, other):
    start, begin = placement.offsets[one.name], placement.offsets[other.name]
    return start + one.nbytes <= begin or begin + other.nbytes <= start or not one.nbytes or not other.nbytes


@given(lifetimes())
@settings(max_examples=300, deadline=None)
def test_nothing_overlaps(lifetimes):
    placement = place(lifetimes)
    assert set(placement.offsets) == {each.name for each in lifetimes}
    for number, one in enumerate(lifetimes):
        start = placement.offsets[one.name]
        assert start % ALIGNMENT == 0
        assert start + one.nbytes <= placement.nbytes
        for other in lifetimes[:number]:
            if one.steps[0] <= other.steps[-1] and other.steps[0] <= one.steps[-1]:
                assert apart(placement, one, other)
    assert placement.lower_bound == max((held_at(lifetimes, step) for step in range(40)), default=0)
    assert placement.lower_bound <= placement.nbytes <= sum(aligned(each.nbytes) for each in lifetimes)


@given(laned())
@settings(max_examples=500, deadline=None)
def test_on_lanes_all_of_one_have_ended_before_any_of_another_in_its_place(given):
    lifetimes, order, known = given
    placement = place(lifetimes, order)

    def before(one, other):
        return all(a in known[b] for a in one.steps for b in other.steps)

    meeting = {
        (one, other): not before(one, other) and not before(other, one)
        for one, other in itertools.combinations(lifetimes, 2)
    }
    for (one, other), both in meeting.items():
        assert not both or apart(placement, one, other)
    # Those that all meet each other need room of their own, and there are none larger than the busiest steps tell.
    largest = 0
    for count in range(1, min(len(lifetimes), 5) + 1):
        for some in itertools.combinations(lifetimes, count):
            if all(meeting[pair] for pair in itertools.combinations(some, 2)):
                largest = max(largest, sum(aligned(each.nbytes) for each in some))
    assert largest <= placement.nbytes <= sum(aligned(each.nbytes) for each in lifetimes)
    assert placement.lower_bound <= placement.nbytes


def test_the_busiest_steps_of_two_lanes():
    """Each lane holds one of its own, beside what the first step has left for both."""
    order = Order([0, 1, 0, 1, 0], [(), (0,), (), (), (3,)])
    shared = Lifetime("shared", 256, (0, 1, 2))
    own = [Lifetime("left", 512, (2, 4)), Lifetime("right", 1024, (1, 3)), Lifetime("late", 4096, (4,))]
    placement = place([shared, *own], order)
    assert placement.lower_bound == 4096 + 512
    assert place([shared, *own[:2]], order).lower_bound == 256 + 512 + 1024
    assert placement.nbytes == placement.lower_bound


def test_a_chain_needs_two_buffers():
    chain = [Lifetime(f"b{i}", 1024, (i, i + 1)) for i in range(10)]
    placement = place(chain)
    assert placement.nbytes == placement.lower_bound == 2048


def test_a_small_buffer_goes_into_a_gap():
    found = place([Lifetime("a", 4096, (0, 1)), Lifetime("b", 1024, (2, 3)), Lifetime("c", 2048, (0, 3))])
    assert found.offsets == {"a": 0, "c": 4096, "b": 0}
    assert found.nbytes == 6144


def test_nothing_needs_nothing():
    assert place([]).nbytes == 0
