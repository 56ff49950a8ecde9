"""Gathers, by the interpreter."""

import numpy
import pytest
from generated_cases import check, node_of, random_arrays

from jitinfer.graph import View
from jitinfer.kernels.triton.gathering import Gathers

FAMILY = Gathers()


@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int64", "bool", "complex64"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather(axis, dtype, index_dtype):
    shape = (7, 5, 40)
    node = node_of("gather", [(shape, dtype), ((2, 3), index_dtype)], {"axis": axis})
    arrays = random_arrays(node, 1, -2, 2)
    arrays[1] = numpy.array([[0, 4, 1], [-1, 2, -5]], index_dtype)
    check(FAMILY, node, arrays)


def test_rows_of_an_embedding_are_read_by_vectors():
    node = node_of("gather", [((50, 64), "bfloat16"), ((2, 9), "int64")])
    arrays = random_arrays(node, 2, 0, 49)
    check(FAMILY, node, arrays)


def test_strided_operands():
    view = View((6, 5), (1, 6), 0)
    node = node_of("gather", [((5, 6), "float32"), ((4, 2), "int64")], views=(view, View((4,), (2,), 1)))
    check(FAMILY, node, random_arrays(node, 3, 0, 5))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_gather_nd(count):
    shape = (4, 5, 33)
    node = node_of("gather_nd", [(shape, "float32"), ((2, 3, count), "int64")])
    arrays = random_arrays(node)
    generator = numpy.random.default_rng(0)
    arrays[1] = numpy.stack([generator.integers(-dim, dim, (2, 3)) for dim in shape[:count]], axis=-1)
    check(FAMILY, node, arrays)


@pytest.mark.parametrize(
    ("shape", "indices", "axis"), [((4, 9, 3), (4, 2, 3), 1), ((4, 9), (4, 1), -1), ((1, 9, 3), (4, 9, 3), 2)]
)
def test_take_along_axis(shape, indices, axis):
    node = node_of("take_along_axis", [(shape, "bfloat16"), (indices, "int64")], {"axis": axis})
    size = shape[axis]
    check(FAMILY, node, random_arrays(node, 4, -size, size - 1))
