"""Strided views against NumPy's own indexing: the elements of an arange say where each was read."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitinfer.errors import GraphError
from jitinfer.graph import Graph, Value, View, op_named
from jitinfer.graph.evaluation import apply_view
from jitinfer.graph.node import Node
from jitinfer.graph.types import TensorType


@st.composite
def walks(draw):
    """A shape, and a few changes of it: (the NumPy array after them, the view after them or None)."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    array = numpy.arange(math.prod(shape)).reshape(shape)
    view = View.of(shape)
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["transpose", "slice", "reshape", "broadcast"]))
        if kind == "transpose":
            permutation = tuple(draw(st.permutations(range(array.ndim))))
            array, view = array.transpose(permutation), view.transpose(permutation)
        elif kind == "slice":
            starts = tuple(draw(st.integers(0, dim - 1)) for dim in array.shape)
            back = [draw(st.booleans()) for _ in array.shape]
            stops = tuple(
                -1 if b else draw(st.integers(start + 1, dim))
                for b, start, dim in zip(back, starts, array.shape, strict=True)
            )
            steps = tuple(-draw(st.integers(1, 2)) if b else draw(st.integers(1, 2)) for b in back)
            bounds = zip(starts, stops, steps, strict=True)
            array = array[tuple(slice(a, None if b < 0 else b, c) for a, b, c in bounds)]
            view = view.slice(starts, stops, steps)
        elif kind == "broadcast":
            wider = (
                draw(st.integers(1, 2)),
                *(draw(st.sampled_from([dim, 3])) if dim == 1 else dim for dim in array.shape),
            )
            array, view = numpy.broadcast_to(array, wider), view.broadcast_to(wider)
        else:
            sizes = [draw(st.sampled_from([d for d in range(1, 5) if array.size % d == 0]))]
            shape_after = (*sizes, array.size // sizes[0])
            reshaped = view.reshape(shape_after)
            if reshaped is None:
                continue
            array, view = array.reshape(shape_after), reshaped
    return math.prod(shape), array, view


@given(walks())
@settings(max_examples=400, deadline=None)
def test_a_view_reads_what_numpy_reads(walk):
    size, array, view = walk
    assert view.shape == array.shape
    numpy.testing.assert_array_equal(apply_view(numpy.arange(size), view), array)


@given(walks(), st.data())
@settings(max_examples=600, deadline=None)
def test_a_view_of_a_view_is_right_or_refused(walk, data):
    size, array, outer = walk
    again = numpy.arange(array.size).reshape(array.shape)
    inner = View.of(array.shape)
    permutation = tuple(data.draw(st.permutations(range(array.ndim))))
    again, inner = again.transpose(permutation), inner.transpose(permutation)
    starts = tuple(data.draw(st.integers(0, dim - 1)) for dim in again.shape)
    again = again[tuple(slice(start, None) for start in starts)]
    inner = inner.slice(starts, tuple(inner.shape), (1,) * len(starts))
    lead = data.draw(st.sampled_from([d for d in range(1, 5) if again.size % d == 0]))
    reshaped = inner.reshape((lead, again.size // lead))
    if reshaped is not None:
        again, inner = again.reshape(reshaped.shape), reshaped
    composed = outer.compose(inner, array.shape)
    if composed is not None:
        expected = array.reshape(-1)[again.reshape(-1)].reshape(again.shape)
        numpy.testing.assert_array_equal(apply_view(numpy.arange(size), composed), expected)


def test_a_slice_of_a_wide_row_of_a_matrix_composes():
    """The parts of packed projections: a column range, seen as heads, transposed."""
    part = View.of((2, 5, 36)).slice((0, 0, 12), (2, 5, 24), (1, 1, 1))
    heads = View.of((2, 5, 12)).reshape((2, 5, 3, 4)).transpose((0, 2, 1, 3))
    assert part.compose(heads, part.shape) == View((2, 3, 5, 4), (180, 4, 36, 1), 12)


def test_what_no_strides_can_say_is_none():
    assert View.of((2, 3)).transpose((1, 0)).reshape((6,)) is None
    assert View.of((2, 3)).transpose((1, 0)).compose(View.of((6,)), (3, 2)) is None


@given(
    st.lists(st.integers(0, 4), max_size=3).flatmap(
        lambda shape: st.tuples(st.just(tuple(shape)), st.tuples(*(st.integers(-5, 13) for _ in shape)))
    ),
    st.integers(-3, 20),
)
def test_bounds_and_repetition_are_seen(form, offset):
    view = View(*form, offset)
    read = [
        offset + sum(i * s for i, s in zip(index, view.strides, strict=True)) for index in numpy.ndindex(*view.shape)
    ]
    assert view.within(20) == all(0 <= each < 20 for each in read)
    if view.distinct():
        assert len(set(read)) == len(read)


@pytest.mark.parametrize("permutation", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_transposed_tensors_are_distinct(permutation):
    assert View.of((3, 1, 4)).transpose(permutation).distinct()
    assert not View((3, 4), (0, 1)).distinct()


def test_views_beyond_a_tensor_are_refused():
    x, y = Value(TensorType((6,), "float32"), "x"), Value(TensorType((2, 3), "float32"), "y")
    exp = op_named("exp")

    def node(read=None, store=None):
        return Node(exp, (x,), {}, (y,), views=(read,) if read else (), stores=(store,) if store else ())

    Graph((x,), (), (node(View((2, 3), (3, 1))),), (y,)).check()
    with pytest.raises(GraphError, match="beyond its elements"):
        Graph((x,), (), (node(View((2, 3), (3, 1), 1)),), (y,)).check()
    with pytest.raises(GraphError, match="does not fill"):
        Graph((x,), (), (node(View((2, 3), (3, 1)), View((2, 3), (3, 1), 1)),), (y,)).check()
    with pytest.raises(GraphError, match="does not fill"):
        Graph((x,), (), (node(View((2, 3), (3, 1)), View((2, 3), (0, 1))),), (y,)).check()
