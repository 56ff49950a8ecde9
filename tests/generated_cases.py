"""Running generated kernels by the interpreter, and comparing them with the op table's reference in float64."""

import numpy

from jitinfer.graph import Builder, View, op_named
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.node import Node
from jitinfer.graph.types import FLOATING, contiguous_strides, numpy_dtype
from jitinfer.kernels import Target
from jitinfer.kernels.device_library import numpy_device_library
from jitinfer.kernels.interpreter import interpret

TARGET = Target.named(90)
ELSEWHERE = {
    "conditional",  # control flow
    "while_loop",
    "paddle",  # opaque
    "constant",  # bytes of a plan
    "attention",  # contractions
    "conv2d",
    "conv2d_transpose",
    "linear",
    "matmul",
}
"""Ops without a kernel of these families."""
# Of bfloat16 a whole unit: the interpreter cuts where devices round.
UNITS = {"float16": 2**-11, "bfloat16": 2**-7, "float32": 2**-23, "float64": 2**-52, "complex64": 2**-23}


def node_of(name, inputs, attributes=None, views=(), stores=()):
    """inputs: (shape, dtype) of the values, None for an absent one; views: of the operands."""
    builder = Builder()
    values = [None if each is None else builder.input(f"x_{i}", *each).value for i, each in enumerate(inputs)]
    node = builder.add_node(op_named(name), values, attributes or {}, views)
    if any(stores):
        node = Node(node.op, node.inputs, node.attributes, node.outputs, node.origin, node.views, tuple(stores))
    return node


def random_array(generator, shape, dtype, low=-3.0, high=3.0):
    kind = numpy_dtype(dtype)
    if dtype == "bool":
        return generator.random(shape) < 0.5
    if dtype.startswith("complex"):
        return (generator.normal(size=shape) + 1j * generator.normal(size=shape)).astype(kind)
    if dtype in FLOATING:
        return generator.uniform(low, high, shape).astype(kind)
    return generator.integers(max(int(low), numpy.iinfo(kind).min), int(high) + 1, shape).astype(kind)


def random_arrays(node, seed=0, low=-3.0, high=3.0):
    generator = numpy.random.default_rng(seed)
    known = {}
    for value in node.inputs:
        if value is not None and value not in known:
            known[value] = random_array(generator, value.shape, value.dtype, low, high)
    return [None if value is None else known[value] for value in node.inputs]


def configs_to_try(family, node, target=TARGET, count=2):
    """The first and the last of them that need no device to wait."""
    usable = [each for each in family.configs(node, target) if not dict(each.values).get("programmatic", 0)]
    return [usable[0], usable[-1]][: min(count, len(usable))]


def check(family, node, arrays, *, slack=4.0, scale=1.0, target=TARGET, configs=None):
    """Every result of the node by the family, poisoned before, against the reference."""
    assert family.supports(node, target)
    wanted = reference(node, arrays)
    for config in configs or configs_to_try(family, node, target):
        with numpy_device_library():
            found = interpret(node, family.launches(node, config, target), arrays)
        for value, actual, expected in zip(node.outputs, found, wanted, strict=True):
            compare(actual, expected, value.dtype, slack, scale)


def reference(node, arrays):
    wide = [
        each if each is None or value.dtype not in FLOATING else each.astype(numpy.float64)
        for value, each in zip(node.inputs, arrays, strict=True)
    ]
    return evaluate_node(node, wide, arithmetic="float64")


def compare(actual, expected, dtype, slack=4.0, scale=1.0):
    """Within `slack` units in the last place of the value, or of `scale`, in float32 at best; others exactly."""
    assert actual.shape == expected.shape
    if dtype not in UNITS:
        numpy.testing.assert_array_equal(actual, expected.astype(actual.dtype))
        return
    wide = numpy.complex128 if dtype.startswith("complex") else numpy.float64
    with numpy.errstate(over="ignore"):
        rounded = expected.astype(numpy_dtype(dtype)).astype(wide)
    actual, expected = actual.astype(wide), numpy.where(numpy.isinf(rounded), rounded, expected)
    numpy.testing.assert_array_equal(numpy.isnan(actual), numpy.isnan(expected))
    infinite = numpy.isinf(expected)
    numpy.testing.assert_array_equal(actual[infinite], expected[infinite])
    known = numpy.isfinite(expected)
    error = numpy.abs(actual[known] - expected[known])
    arithmetic = UNITS["float64" if dtype == "float64" else "float32"]
    room = UNITS[dtype] * numpy.abs(expected[known]) * (1 if dtype in ("float16", "bfloat16") else slack)
    assert numpy.isfinite(actual[known]).all()
    assert (error <= room + arithmetic * slack * scale).all(), float((error - room).max())


def strided_view(shape, style):
    """A view of `shape` over a larger buffer, and the buffer's shape."""
    rank = len(shape)
    if style == "reversed":
        strides = contiguous_strides(shape)
        offset = sum((dim - 1) * stride for dim, stride in zip(shape, strides, strict=True))
        return View(shape, tuple(-stride for stride in strides), offset), shape
    if style == "transposed":
        turned = tuple(reversed(shape))
        return View.of(turned).transpose(tuple(reversed(range(rank)))), turned
    if style == "sliced":
        padded = tuple(dim + 3 for dim in shape)
        view = View.of(padded).slice((1,) * rank, tuple(dim + 1 for dim in shape), (1,) * rank)
        return view, padded
    if style == "broadcast":
        return View((1, *shape[1:]), View.of(shape).strides, 0).broadcast_to(shape), shape
    return None, shape
