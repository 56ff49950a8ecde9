"""Running sums, orders, and tensors made of attributes, by the interpreter."""

import numpy
import pytest
from generated_cases import TARGET, check, node_of, random_arrays

from jitinfer.kernels import Config
from jitinfer.kernels.triton.creation import Creation
from jitinfer.kernels.triton.orders import Orders
from jitinfer.kernels.triton.scans import RunningSums
from jitinfer.runtime.plan import Fill

SUMS, ORDERS, CREATION = RunningSums(), Orders(), Creation()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "int8"])
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_cumsum(axis, exclusive, reverse, dtype):
    node = node_of("cumsum", [((3, 5, 7), dtype)], {"axis": axis, "reverse": reverse, "exclusive": exclusive})
    check(SUMS, node, random_arrays(node), slack=16.0, scale=20.0)


def test_cumsum_over_several_blocks():
    node = node_of("cumsum", [((3, 100), "float32")], {"axis": 1})
    configs = [Config.of(rows=2, columns=32, warps=4, programmatic=0)]
    check(SUMS, node, random_arrays(node), slack=64.0, scale=100.0, configs=configs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int64", "bool"])
@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize(("shape", "axis"), [((3, 20), -1), ((20, 3), 0), ((2, 70), 1), ((1, 1), 1)])
def test_argsort_is_stable(shape, axis, descending, dtype):
    node = node_of("argsort", [(shape, dtype)], {"axis": axis, "descending": descending})
    arrays = random_arrays(node)
    if dtype == "float32":
        arrays[0] = numpy.round(arrays[0])
    check(ORDERS, node, arrays)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
@pytest.mark.parametrize(("shape", "axis", "k"), [((3, 20), -1, 4), ((20, 3), 0, 1), ((2, 70), 1, 70), ((5, 64), 1, 8)])
def test_top_k(shape, axis, k, dtype, largest):
    node = node_of("top_k", [(shape, dtype)], {"axis": axis, "k": k, "largest": largest})
    check(ORDERS, node, random_arrays(node))


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
@pytest.mark.parametrize(("shape", "axis"), [((2, 301), 1), ((257, 3), 0)])
def test_the_first_of_parts(shape, axis, dtype, largest):
    """With many equal elements: those that stand first are kept, whatever part they are in."""
    node = node_of("top_k", [(shape, dtype)], {"axis": axis, "k": 5, "largest": largest})
    arrays = random_arrays(node)
    arrays[0] = numpy.round(arrays[0].astype("float32")).astype(arrays[0].dtype)
    configs = [Config.of(rows=1, columns=32, parts=4, warps=4, programmatic=0)]
    check(ORDERS, node, arrays, configs=configs)


def test_the_first_of_long_rows_are_found_in_parts():
    node = node_of("top_k", [((16, 32000), "bfloat16")], {"k": 50})
    assert len(ORDERS.launches(node, ORDERS.configs(node, TARGET)[0], TARGET).steps) == 2
    assert not ORDERS.supports(node_of("top_k", [((1, 70000), "bfloat16")], {"k": 50}), TARGET)


@pytest.mark.parametrize("descending", [True, False])
def test_nan_is_above_all_numbers(descending):
    x = numpy.array([[1, numpy.nan, -numpy.inf, numpy.inf, numpy.nan, 0]], numpy.float32)
    check(ORDERS, node_of("argsort", [(x.shape, "float32")], {"descending": descending}), [x])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool", "uint8", "float64"])
@pytest.mark.parametrize("value", [0.0, 1.0, 2.5, -1.0])
def test_full(value, dtype):
    if dtype == "uint8" and value < 0:
        return
    node = node_of("full", [], {"shape": (3, 50), "value": value, "dtype": dtype})
    check(CREATION, node, [])


def test_zeros_are_a_fill():
    node = node_of("full", [], {"shape": (3, 50), "value": 0.0, "dtype": "bfloat16"})
    (step,) = CREATION.launches(node, CREATION.configs(node, TARGET)[0], TARGET).steps
    assert isinstance(step, Fill)


@pytest.mark.parametrize("dtype", ["int64", "int32", "float32", "bfloat16"])
@pytest.mark.parametrize("size", [1, 77, 1025])
def test_iota(size, dtype):
    check(CREATION, node_of("iota", [], {"size": size, "dtype": dtype}), [])
