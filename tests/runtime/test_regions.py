"""Parts of buffers, byte by byte."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitinfer.runtime import Matrix, Pointer, Region, regions
from jitinfer.runtime.regions import end, joined, matrix_region, overlap


@st.composite
def parts(draw):
    repeats = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=3))
    return Region("x", draw(st.integers(0, 60)), draw(st.integers(0, 20)), tuple(repeats))


def bytes_of(region):
    found = set()
    for numbers in itertools.product(*(range(count) for count, _ in region.repeats)):
        start = region.offset + sum(n * stride for n, (_, stride) in zip(numbers, region.repeats, strict=True))
        found |= set(range(start, start + region.nbytes))
    return found


@given(parts(), parts())
@settings(max_examples=1000, deadline=None)
def test_two_parts_overlap_where_they_have_a_byte_in_common(one, other):
    assert overlap(one, other) == bool(bytes_of(one) & bytes_of(other))
    assert overlap(other, one) == overlap(one, other)
    assert not overlap(one, Region("y", other.offset, other.nbytes, other.repeats))


@given(parts())
@settings(max_examples=500, deadline=None)
def test_runs_that_follow_each_other_are_one(part):
    assert bytes_of(joined(part)) == bytes_of(part)
    assert end(part) == max(bytes_of(part), default=part.offset - 1) + 1


def test_rows_without_gaps_are_one_run():
    matrix = Matrix(Pointer("y", 64), "bfloat16", 30, 8, 8, 30 * 8)
    assert matrix_region(matrix, 4) == Region("y", 64, 4 * 30 * 8 * 2)
    assert matrix_region(Matrix(Pointer("y"), "float32", 30, 8, 12, 500), 4) == Region(
        "y", 0, 32, ((4, 2000), (30, 48))
    )


def test_tokens_of_two_streams_in_one_tensor_do_not_overlap():
    """[batch, tokens, width] of bfloat16, the first 1024 tokens and the last 154."""
    row, batch = 4608 * 2, 1178 * 4608 * 2
    image, text = (Region("qkv", first * row, count * row, ((2, batch),)) for first, count in ((0, 1024), (1024, 154)))
    assert not overlap(image, text)
    assert overlap(image, Region("qkv", 1023 * row, row, ((2, batch),)))
    assert overlap(text, Region("qkv", 0, 2 * batch))


def test_very_many_runs_count_as_all_between_their_ends(monkeypatch):
    even, odd = (Region("x", first, 1, ((50, 2),)) for first in (0, 1))
    assert not overlap(even, odd)
    monkeypatch.setattr(regions, "MOST_RUNS", 49)
    regions.runs.cache_clear()
    assert overlap(even, odd)
    assert not overlap(even, Region("x", 99, 1))
    regions.runs.cache_clear()


@pytest.mark.parametrize("empty", [Region("x", 5, 0), Region("x", 5, 3, ((0, 4),))])
def test_nothing_overlaps_with_nothing(empty):
    assert not overlap(empty, Region("x", 0, 10))
    assert not overlap(empty, empty)
    assert math.prod(count for count, _ in joined(empty).repeats) * joined(empty).nbytes == 0
