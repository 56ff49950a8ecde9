"""Copies and concatenations, by the interpreter."""

import pytest
from generated_cases import TARGET, check, node_of, random_arrays, strided_view

from jitinfer.graph import View
from jitinfer.kernels.triton.movement import Copies

FAMILY = Copies()
DTYPES = ["bfloat16", "float32", "int64", "bool", "complex64", "complex128"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("permutation", [(1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0), (0, 1, 2)])
def test_transpose(permutation, dtype):
    node = node_of("transpose", [((3, 20, 70), dtype)], {"permutation": permutation})
    check(FAMILY, node, random_arrays(node))


def test_heads_to_rows():
    node = node_of("transpose", [((2, 4, 9, 72), "bfloat16")], {"permutation": (0, 2, 1, 3)})
    check(FAMILY, node, random_arrays(node))


@pytest.mark.parametrize("style", ["reversed", "transposed", "sliced", "broadcast"])
@pytest.mark.parametrize("shape", [(4, 15), (60,), (2, 30), (3, 20)])
def test_reshape_of_views(shape, style):
    view, buffer = strided_view((4, 3, 5), style)
    node = node_of("reshape", [(buffer, "float32")], {"shape": shape}, views=(view,))
    if FAMILY.supports(node, TARGET):
        check(FAMILY, node, random_arrays(node))
    else:  # no strides can say it
        assert style in ("transposed", "sliced", "broadcast")
        assert shape not in ((4, 15), (60,))


@pytest.mark.parametrize("dtype", DTYPES)
def test_slices_with_steps(dtype):
    attributes = {"starts": (1, 9), "stops": (4, -1), "steps": (2, -3)}
    node = node_of("slice", [((5, 10), dtype)], attributes)
    check(FAMILY, node, random_arrays(node))


@pytest.mark.parametrize(
    ("shape", "goal"), [((3, 1, 5), (2, 3, 4, 5)), ((1,), (7, 40)), ((), (3, 3)), ((6, 1), (6, 33))]
)
def test_broadcasts(shape, goal):
    node = node_of("broadcast_to", [(shape, "bfloat16")], {"shape": goal})
    check(FAMILY, node, random_arrays(node))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(axis, dtype):
    shapes = [[4, 6, 40], [4, 6, 40], [4, 6, 40], [4, 6, 40]]
    for position, size in enumerate((3, 0, 8, 1)):
        shapes[position][axis] = size
    node = node_of("concat", [(tuple(shape), dtype) for shape in shapes], {"axis": axis})
    check(FAMILY, node, random_arrays(node))


def test_concat_of_strided_parts_is_one_launch():
    turned = View.of((24, 8)).transpose((1, 0))
    packed = View((8, 16), (48, 1), 16)
    node = node_of(
        "concat",
        [((24, 8), "float32"), ((8, 48), "float32"), ((8, 5), "float32")],
        {"axis": 1},
        views=(turned, packed, None),
    )
    check(FAMILY, node, random_arrays(node))
    assert len(FAMILY.launches(node, FAMILY.configs(node, TARGET)[0], TARGET).steps) == 1


def test_one_value_many_times():
    node = node_of("concat", [((3, 5), "float32")] * 2, {"axis": 0})
    node = type(node)(node.op, (node.inputs[0],) * 2, node.attributes, node.outputs, node.origin)
    check(FAMILY, node, random_arrays(node))


def test_stores():
    node = node_of("transpose", [((40, 6), "float16")], {"permutation": (1, 0)})
    whole = type(node.output)(node.output.type.with_shape((6, 40)), "y")
    node = type(node)(node.op, node.inputs, node.attributes, (whole,), node.origin, (), (View((6, 40), (1, 6), 0),))
    check(FAMILY, node, random_arrays(node))
