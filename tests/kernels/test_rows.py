"""Row spaces against walking the views element by element."""

import itertools
import random

import numpy
import pytest

from jitinfer.graph.evaluation import apply_view
from jitinfer.graph.view import View
from jitinfer.kernels.rows import row_space


def places(view):
    return apply_view(numpy.arange(10_000), view)


def walked(space, view, position):
    """The places of a view by its row space."""
    rows = [
        sum(i * stride for i, stride in zip(index, space.row_strides[position], strict=True))
        for index in itertools.product(*(range(dim) for dim in space.dims))
    ]
    columns = space.columns[position] * numpy.arange(space.width)
    return view.offset + numpy.array(rows)[:, None] + columns


def test_neighbours_merge_where_all_agree():
    whole, per_batch = View.of((2, 5, 24)), View.of((2, 1, 24)).broadcast_to((2, 5, 24))
    assert row_space([whole, whole], 1).dims == (10,)
    space = row_space([whole, per_batch], 1)
    assert space.dims == (2, 5)
    assert space.row_strides == ((120, 24), (24, 0))
    assert space.columns == (1, 1)
    assert row_space([whole, View.of((24,)).broadcast_to((2, 5, 24))], 1).dims == (10,)
    assert row_space([whole], 3).dims == ()
    assert row_space([View((2, 3, 4), (100, 10, 1))], 2) is None


@pytest.mark.parametrize("seed", range(60))
def test_every_element_is_walked_in_order(seed):
    choose = random.Random(seed)
    shape = tuple(choose.choice([1, 2, 3, 4]) for _ in range(choose.randint(1, 4)))
    axes = choose.randint(1, len(shape))
    views = [View.of(shape)]
    for _ in range(2):
        strides = tuple(choose.choice([0, 1, 2, 7, 24, 60]) for _ in shape)
        views.append(choose.choice([View(shape, strides, 3), View.of(shape), View.of(shape[-1:]).broadcast_to(shape)]))
    space = row_space(views, axes)
    if space is None:
        assert axes > 1
        return
    for position, view in enumerate(views):
        wanted = places(view).reshape(space.rows, space.width)
        assert numpy.array_equal(walked(space, view, position), wanted)
