"""Generated kernels of reductions over any axes, against the op table's reference, by the interpreter."""

import numpy
import pytest
from generated_cases import TARGET, check, node_of, random_arrays, strided_view

from jitinfer.kernels import Config
from jitinfer.kernels.triton.generated.reductions import Reductions

FAMILY = Reductions()
NAMES = ["sum", "mean", "max", "min", "prod", "any", "all"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "int64", "int8", "bool"])
@pytest.mark.parametrize("name", NAMES)
def test_each_reduction_of_each_type(name, dtype):
    node = node_of(name, [((3, 5, 7), dtype)], {"axes": (1, 2)})
    if name == "prod":
        low, high = (0.5, 1.5) if dtype.startswith(("float", "bfloat")) else (1, 2)
    else:
        low, high = -1, 3
    check(FAMILY, node, random_arrays(node, 1, low, high), slack=16.0, scale=40.0)


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2), (-1,), ()])
@pytest.mark.parametrize("name", ["sum", "max"])
def test_axes(name, axes, keepdims):
    node = node_of(name, [((3, 12, 5), "float32")], {"axes": axes, "keepdims": keepdims})
    check(FAMILY, node, random_arrays(node), slack=16.0, scale=40.0)


@pytest.mark.parametrize("style", ["reversed", "transposed", "sliced", "broadcast"])
def test_strided_operands(style):
    shape = (4, 6, 50)
    view, buffer = strided_view(shape, style)
    node = node_of("mean", [(buffer, "bfloat16")], {"axes": (2,)}, views=(view,))
    check(FAMILY, node, random_arrays(node), slack=16.0)


@pytest.mark.parametrize("name", [*NAMES, "argmax", "argmin"])
def test_rows_of_several_blocks(name):
    node = node_of(name, [((3, 330), "float32")], {"axis": 1} if name.startswith("arg") else {"axes": (1,)})
    configs = [Config.of(rows=2, columns=64, parts=1, warps=4, programmatic=0)]
    check(FAMILY, node, random_arrays(node, 5, 0.99, 1.01), slack=64.0, scale=1300.0, configs=configs)


@pytest.mark.parametrize("parts", [2, 8])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "int32", "bfloat16"])
def test_rows_cut_into_parts(name, dtype, parts):
    node = node_of(name, [((3, 540 if name != "prod" else 140), dtype)], {"axes": (1,)})
    configs = [Config.of(rows=1, columns=64 if name != "prod" else 16, parts=parts, warps=4, programmatic=0)]
    low, high = (0.99, 1.01) if dtype != "int32" else (0, 2)
    check(FAMILY, node, random_arrays(node, 5, low, high), slack=64.0, scale=1100.0, configs=configs)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool", "uint8"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_first_index_of_the_extreme(name, dtype, axis):
    node = node_of(name, [((4, 9, 30), dtype)], {"axis": axis})
    check(FAMILY, node, random_arrays(node, 2, 0, 3))


def test_extremes_with_nan_and_infinities():
    array = numpy.array([[1, numpy.nan, 3, numpy.nan], [-numpy.inf] * 4, [numpy.inf, 1, numpy.inf, 2]], numpy.float32)
    for name in ("argmax", "argmin"):
        check(FAMILY, node_of(name, [(array.shape, "float32")], {"axis": 1}), [array])
    for name in ("max", "min", "sum", "mean"):
        check(FAMILY, node_of(name, [(array.shape, "float32")], {"axes": (1,)}), [array])


def test_sums_over_all_elements_are_cut_into_parts():
    node = node_of("sum", [((1024, 1024), "bfloat16")], {"axes": (0, 1)})
    config = FAMILY.configs(node, TARGET)[0]
    assert config["parts"] >= 64
    assert len(FAMILY.launches(node, config, TARGET).steps) == 2


def test_integer_means_are_exact():
    node = node_of("mean", [((3, 4), "int64")], {"axes": (1,)})
    check(FAMILY, node, [numpy.array([[1, 2, 3, 5], [-1, -2, -3, -5], [2**40, 2**40, 2**40, 2**40 + 8]])])
