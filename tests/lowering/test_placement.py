"""Buffers in one arena: never two in one place at one time, and little more room than the busiest step needs."""

from hypothesis import given, settings
from hypothesis import strategies as st

from jitinfer.lowering.placement import Lifetime, place
from jitinfer.runtime.plan import ALIGNMENT, aligned


@st.composite
def lifetimes(draw):
    found = []
    for number in range(draw(st.integers(0, 25))):
        first = draw(st.integers(0, 30))
        found.append(Lifetime(f"b{number}", draw(st.integers(0, 5000)), first, first + draw(st.integers(0, 8))))
    return found


def held_at(lifetimes, step):
    return sum(aligned(each.nbytes) for each in lifetimes if each.first <= step <= each.last)


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
            if one.first <= other.last and other.first <= one.last and one.nbytes and other.nbytes:
                begin = placement.offsets[other.name]
                assert start + one.nbytes <= begin or begin + other.nbytes <= start
    assert placement.lower_bound == max((held_at(lifetimes, step) for step in range(40)), default=0)
    assert placement.lower_bound <= placement.nbytes <= sum(aligned(each.nbytes) for each in lifetimes)


def test_a_chain_needs_two_buffers():
    chain = [Lifetime(f"b{i}", 1024, i, i + 1) for i in range(10)]
    placement = place(chain)
    assert placement.nbytes == placement.lower_bound == 2048


def test_a_small_buffer_goes_into_a_gap():
    found = place([Lifetime("a", 4096, 0, 1), Lifetime("b", 1024, 2, 3), Lifetime("c", 2048, 0, 3)])
    assert found.offsets == {"a": 0, "c": 4096, "b": 0}
    assert found.nbytes == 6144


def test_nothing_needs_nothing():
    assert place([]).nbytes == 0
