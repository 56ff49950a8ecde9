"""Generated kernels of pointwise ops against the op table's reference, by the interpreter."""

import gc
import itertools
import linecache

import ml_dtypes
import numpy
import pytest
from generated_cases import TARGET, check, node_of, random_arrays, strided_view

from jitinfer.graph import Kind, View, table
from jitinfer.graph.types import numpy_dtype
from jitinfer.kernels.assembly import specializations
from jitinfer.kernels.triton.frontend import kernel_key
from jitinfer.kernels.triton.generated.expressions import POINTWISE
from jitinfer.kernels.triton.generated.pointwise import Pointwise

FAMILY = Pointwise()
ATTRIBUTES = {
    "cast": {"dtype": "int32"},
    "clip": {"low": -1.25, "high": 2.0},
    "leaky_relu": {"negative_slope": 0.125},
}
POSITIVE = {"log", "log1p", "rsqrt", "sqrt"}
FLOATING_ONLY = {"gelu", "swiglu"}
INTEGERS_ONLY = {"bitwise_and", "bitwise_or", "bitwise_xor"}


def operand_count(name):
    return len(table()[name].operands)


def range_of(name):
    return (0.25, 4.0) if name in POSITIVE or name == "power" else (-3.0, 3.0)


def inputs_of(name, shapes, dtype):
    kinds = ["bool", dtype, dtype] if name == "where" else [dtype] * operand_count(name)
    return list(zip(shapes, kinds, strict=False))


def usable(name, dtype):
    if dtype == "int64":
        return name not in FLOATING_ONLY
    return name not in INTEGERS_ONLY


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "int64"])
@pytest.mark.parametrize("name", sorted(POINTWISE))
def test_each_op_of_each_type(name, dtype):
    if not usable(name, dtype):
        return
    node = node_of(name, inputs_of(name, [(5, 24)] * 3, dtype), ATTRIBUTES.get(name))
    low, high = range_of(name)
    arrays = random_arrays(node, 1, low, high)
    if name == "divide" and dtype == "int64":
        arrays[1] = numpy.where(arrays[1] == 0, 1, arrays[1])
    check(FAMILY, node, arrays, slack=6.0, scale=4.0)


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 3.5, 1e-6, -1e-6, 88.0, -104.0, 1e4, numpy.inf, -numpy.inf, numpy.nan]


@pytest.mark.parametrize("name", sorted(POINTWISE - INTEGERS_ONLY - {"cast", "where"}))
def test_infinities_nans_and_halves(name):
    pairs = numpy.array(list(itertools.product(SPECIAL, SPECIAL)), numpy.float32)
    if name == "rsqrt":
        pairs = numpy.abs(pairs)
    if name == "swiglu":
        pairs = pairs[numpy.abs(pairs[:, 0]) != 104]  # whose silu is 0 in float32 alone
    node = node_of(name, inputs_of(name, [(len(pairs),)] * 2, "float32"), ATTRIBUTES.get(name))
    check(FAMILY, node, [pairs[:, 0], pairs[:, 1]][: operand_count(name)], slack=6.0)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64"])
@pytest.mark.parametrize("name", ["divide", "floor_divide", "remainder", "power", "maximum", "less", "sign", "abs"])
def test_integers(name, dtype):
    values = [-7, -3, -1, 1, 2, 3, 7] if dtype != "uint8" else [1, 2, 3, 7]
    pairs = numpy.array(list(itertools.product(values, values)), numpy_dtype(dtype))
    second = numpy.abs(pairs[:, 1]) if name == "power" else pairs[:, 1]
    node = node_of(name, inputs_of(name, [(len(pairs),)] * 2, dtype))
    check(FAMILY, node, [pairs[:, 0], second][: operand_count(name)])


@pytest.mark.parametrize("name", ["add", "multiply", "maximum", "bitwise_xor", "logical_not", "less", "equal"])
def test_bools(name):
    node = node_of(name, inputs_of(name, [(3, 5)] * 2, "bool"))
    check(FAMILY, node, random_arrays(node))


@pytest.mark.parametrize("target", ["bool", "int8", "uint8", "int32", "int64", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("source", ["bool", "uint8", "int64", "float16", "bfloat16", "float32", "float64"])
def test_casts_truncate(source, target):
    node = node_of("cast", [((7, 9), source)], {"dtype": target})
    low = 0.0 if "uint8" in (source, target) else -100.0
    check(FAMILY, node, random_arrays(node, 2, low, 100.0))


SHAPES = [
    ((), ()),
    ((1,), (1,)),
    ((7,), (1,)),
    ((2, 3, 5), (3, 1)),
    ((4, 72), (72,)),
    ((2, 6, 96), (2, 1, 96)),
    ((33, 3), (33, 1)),
    ((1, 1030), (2, 1030)),
    ((2, 1, 5, 1), (3, 1, 7)),
]


@pytest.mark.parametrize(("first", "second"), SHAPES)
def test_broadcasting(first, second):
    node = node_of("subtract", [(first, "float32"), (second, "float32")])
    check(FAMILY, node, random_arrays(node))


@pytest.mark.parametrize("style", ["reversed", "transposed", "sliced", "broadcast"])
@pytest.mark.parametrize("shape", [(6, 10), (2, 9, 40), (3, 4, 5, 8)])
def test_strided_operands(shape, style):
    view, buffer = strided_view(shape, style)
    node = node_of("add", [(buffer, "bfloat16"), (shape, "bfloat16")], views=(view, None))
    check(FAMILY, node, random_arrays(node))


@pytest.mark.parametrize("shape", [(2, 16, 24), (3, 70, 90)])
def test_stores_that_transpose(shape):
    store = View.of((shape[0], shape[2], shape[1])).transpose((0, 2, 1))
    node = node_of("exp", [(shape, "float16")], stores=(store,))
    check(FAMILY, node, random_arrays(node))


def test_one_value_read_twice_in_two_ways():
    turned = View.of((12, 12)).transpose((1, 0))
    node = node_of("add", [((12, 12), "float32"), ((12, 12), "float32")])
    node = type(node)(node.op, (node.inputs[0],) * 2, node.attributes, node.outputs, node.origin, (None, turned))
    check(FAMILY, node, random_arrays(node))


@pytest.mark.parametrize("name", ["real", "imag"])
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_parts_of_complex_numbers(name, dtype):
    node = node_of(name, [((5, 6), dtype)])
    check(FAMILY, node, random_arrays(node))


def test_complex_numbers_of_parts():
    node = node_of("complex", [((5, 6), "float32"), ((6,), "float32")])
    check(FAMILY, node, random_arrays(node))


def test_sine_of_large_angles():
    angles = numpy.linspace(-100000, 100000, 4001, dtype=numpy.float32)
    check(FAMILY, node_of("sin", [(angles.shape, "float32")]), [angles])


def test_no_elements():
    node = node_of("add", [((0, 3), "float32"), ((0, 3), "float32")])
    candidate = FAMILY.launches(node, FAMILY.configs(node, TARGET)[0], TARGET)
    assert candidate.steps == ()


def test_every_pointwise_op_of_the_table_is_known():
    known = set(FAMILY.ops)
    missing = {name for name, op in table().items() if op.kind is Kind.POINTWISE} - known
    assert missing == {"rotary", "timestep_embedding"}


def source_of(name):
    node = node_of(name, [((4, 8), "float32"), ((8,), "float32")])
    return FAMILY.launches(node, FAMILY.configs(node, TARGET)[0], TARGET)


def test_equal_nodes_have_one_function():
    assert source_of("add").steps[0].function is source_of("add").steps[0].function
    assert source_of("add").steps[0].function is not source_of("subtract").steps[0].function


def test_the_key_of_a_kernel_is_its_text():
    """Also when the function was forgotten between, and its text has left the cache of lines."""

    def digest(name):
        (source,) = specializations(source_of(name))
        return kernel_key(source, 90).digest

    first = digest("add")
    gc.collect()
    assert not [each for each in linecache.cache if each.startswith("<jitinfer")]
    assert digest("add") == first
    assert digest("subtract") != first


def test_float8_needs_a_device_that_converts_it():
    node = node_of("cast", [((4, 16), "float32")], {"dtype": "float8_e4m3fn"})
    assert not FAMILY.supports(node, type(TARGET).named(80))
    arrays = [numpy.linspace(-400, 400, 64, dtype=numpy.float32).reshape(4, 16)]
    assert FAMILY.supports(node, TARGET)
    assert arrays[0].astype(ml_dtypes.float8_e4m3fn).shape == node.output.shape


def test_more_elements_than_32_bits_count():
    """Nothing to run here: the text alone."""
    node = node_of("add", [((2**16, 2**16), "bfloat16"), ((2**16,), "bfloat16")])
    (step,) = FAMILY.launches(node, FAMILY.configs(node, TARGET)[0], TARGET).steps
    assert "tl.program_id(0).to(tl.int64)" in step.function.src
    small = node_of("add", [((2**10, 2**10), "bfloat16"), ((2**10,), "bfloat16")])
    (step,) = FAMILY.launches(small, FAMILY.configs(small, TARGET)[0], TARGET).steps
    assert "int64" not in step.function.src


def test_a_small_part_of_a_large_buffer_is_reached_by_64_bits():
    far = View((2, 64), (2**32, 1), 5)
    node = node_of("exp", [((2**33,), "float16")], views=(far,))
    (step,) = FAMILY.launches(node, FAMILY.configs(node, TARGET)[0], TARGET).steps
    assert ".to(tl.int64) * 4294967296" in step.function.src
