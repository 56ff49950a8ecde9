"""Generated kernels that hold rows, against the op table's reference, by the interpreter."""

import numpy
import pytest
from generated_cases import TARGET, check, node_of, random_arrays, strided_view

from jitinfer.graph import Builder, View, op_named, ops
from jitinfer.kernels.triton.generated.pointwise import Pointwise
from jitinfer.kernels.triton.generated.rows import HeldRows

FAMILY = HeldRows()
DTYPES = ["float32", "float16", "bfloat16", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), [((5, 33), -1), ((2, 3, 64), 2), ((3, 17, 6), 1), ((19, 4), 0), ((1,), 0)])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, shape, axis, dtype):
    node = node_of(name, [(shape, dtype)], {"axis": axis})
    check(FAMILY, node, random_arrays(node), slack=16.0)


def test_softmax_of_what_is_masked():
    x = numpy.array([[0.0, -numpy.inf, 1.0], [-numpy.inf] * 3, [numpy.nan, 1, 2], [numpy.inf, 1, 2]], numpy.float32)
    check(FAMILY, node_of("softmax", [(x.shape, "float32")]), [x])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize(("shape", "axes"), [((5, 48), 1), ((2, 3, 1152), 1), ((4, 3, 7, 5), 3), ((2, 1, 30), 2)])
def test_norms(name, shape, axes, dtype):
    affine = (shape[len(shape) - axes :], dtype)
    node = node_of(name, [(shape, dtype), affine, affine], {"axes": axes, "epsilon": 1e-5})
    check(FAMILY, node, random_arrays(node), slack=32.0, scale=10.0)


def test_norm_of_what_is_far_from_zero():
    node = node_of("layer_norm", [((4, 256), "float32")], {"epsilon": 1e-6})
    arrays = [random_arrays(node)[0] * 1e-2 + 1000]
    check(FAMILY, node, arrays, slack=20000.0)  # the mean errs by 1e-3 of the deviation; mean(x^2) - mean^2 by 200


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["adaptive_layer_norm", "gated_residual_adaptive_layer_norm"])
def test_adaptive_norms_read_strided_modulation(name, dtype):
    shape = (2, 6, 40)
    width = shape[-1]
    view = View((2, 1, width), (6 * width, width, 1), 2 * width)
    op = op_named(name)
    inputs = [
        (shape, dtype) if each.name in ("x", "residual") else ((2, 6 * width), dtype) for each in op.operands[:-2]
    ]
    views = [None if each.name in ("x", "residual") else view for each in op.operands[:-2]]
    node = node_of(name, inputs, {"epsilon": 1e-6}, views=views)
    check(FAMILY, node, random_arrays(node), slack=32.0, scale=16.0)


@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "groups"), [((2, 8, 5, 7), 4), ((1, 6, 16), 3), ((3, 4), 2), ((1, 32, 8, 8), 32)])
def test_group_norm(shape, groups, dtype, activation):
    vector = ((shape[1],), dtype)
    node = node_of("group_norm", [(shape, dtype), vector, vector], {"groups": groups, "activation": activation})
    check(FAMILY, node, random_arrays(node), slack=32.0, scale=10.0)


@pytest.mark.parametrize("style", ["transposed", "sliced", "broadcast"])
@pytest.mark.parametrize("shape", [(2, 8, 5, 7), (2, 8, 12)])
def test_group_norm_through_strides(shape, style):
    view, buffer = strided_view(shape, style)
    vector = ((8,), "float32")
    node = node_of("group_norm", [(buffer, "float32"), vector, vector], {"groups": 4}, views=(view,))
    check(FAMILY, node, random_arrays(node), slack=32.0, scale=10.0)


@pytest.mark.parametrize("style", ["reversed", "transposed", "sliced", "broadcast"])
def test_strided_rows(style):
    shape = (4, 3, 40)
    view, buffer = strided_view(shape, style)
    node = node_of("layer_norm", [(buffer, "bfloat16")], views=(view,))
    check(FAMILY, node, random_arrays(node), slack=32.0, scale=4.0)


def group_of(body, views=()):
    inputs = [(value.shape, value.dtype) for value in body.inputs]
    return node_of("group", inputs, {"body": body}, views=views)


def test_a_group_of_norm_and_pointwise_ops():
    builder = Builder()
    x, y = builder.input("x", (2, 5, 48), "bfloat16"), builder.input("y", (2, 5, 48), "bfloat16")
    scale, shift = builder.input("scale", (2, 1, 48), "bfloat16"), builder.input("shift", (2, 1, 48), "bfloat16")
    total = x + y * 0.5
    normal = ops.rms_norm(total, axes=1, epsilon=1e-6) * (scale + 1.0) + shift
    node = group_of(builder.build(total, ops.silu(normal)))
    check(FAMILY, node, random_arrays(node), slack=32.0, scale=20.0)


def test_a_group_with_results_of_one_element_a_row():
    builder = Builder()
    x = builder.input("x", (6, 33), "float32")
    mean = ops.mean(x * x, axes=(1,), keepdims=True)
    largest = ops.max(x, axes=(-1,), keepdims=True)
    node = group_of(builder.build(mean, x - largest, ops.sqrt(mean) + largest))
    check(FAMILY, node, random_arrays(node), slack=16.0, scale=8.0)


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int8", "bool"])
def test_reductions_in_groups(name, dtype):
    builder = Builder()
    x = builder.input("x", (5, 21), dtype)
    reduced = getattr(ops, name)(x, axes=(1,), keepdims=True)
    node = group_of(builder.build(reduced, ops.equal(x, reduced)))
    low = -2 if dtype != "bool" else 0
    if dtype == "float16":  # x == its mean says nothing about rounding
        node = group_of(builder.build(reduced))
    if name == "mean" and dtype == "float32":
        node = group_of(builder.build(reduced))
    check(FAMILY, node, random_arrays(node, 3, low, 2), slack=8.0, scale=8.0)


def test_maxima_of_rows_with_nan():
    builder = Builder()
    x = builder.input("x", (3, 5), "float32")
    node = group_of(builder.build(ops.max(x, axes=(1,), keepdims=True), ops.min(x, axes=(1,), keepdims=True)))
    array = random_arrays(node)[0]
    array[1, 3] = numpy.nan
    array[2] = -numpy.inf
    check(FAMILY, node, [array])


def test_a_group_without_reductions_is_not_for_it_and_the_other_way_round():
    builder = Builder()
    x = builder.input("x", (4, 8), "float32")
    pointwise = group_of(builder.build(ops.exp(x) + x))
    builder = Builder()
    x = builder.input("x", (4, 8), "float32")
    reducing = group_of(builder.build(ops.softmax(x, axis=-1) + x))
    assert Pointwise().supports(pointwise, TARGET)
    assert not FAMILY.supports(pointwise, TARGET)
    assert not Pointwise().supports(reducing, TARGET)
    assert FAMILY.supports(reducing, TARGET)


def test_rows_too_long_for_registers_are_refused():
    assert FAMILY.supports(node_of("softmax", [((2, 16384), "bfloat16")]), TARGET)
    assert not FAMILY.supports(node_of("softmax", [((2, 16385), "bfloat16")]), TARGET)
    assert not FAMILY.supports(node_of("softmax", [((2, 16384), "float64")]), TARGET)
