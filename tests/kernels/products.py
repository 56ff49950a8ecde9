"""Nodes of matrix products for tests, and how they are checked against the op table's reference in float64."""

import contextlib

import numpy
import triton.language as tl
from gpu import device_target, run_on_device
from triton.runtime import interpreter

from jitinfer.graph import Builder, op_named
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.node import Node
from jitinfer.graph.types import numpy_dtype
from jitinfer.kernels import Config, Target
from jitinfer.kernels import interpreter as steps
from jitinfer.kernels.interpreter import interpret
from jitinfer.runtime.plan import Gemm
from jitinfer.testing import random_array

TARGET = Target.named(90)
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half the distance from one to the next number."""


def linear(
    x,
    columns,
    dtype="bfloat16",
    *,
    groups=None,
    bias=False,
    residual=None,
    gate=None,
    activation="none",
    contraction=1,
    transposed=False,
    unrounded=False,
    views=None,
    store=None,
    value=None,
):
    """linear of x [...], [..., columns] after it.

    residual, gate: their shapes; views: by operand, the view through which it is read and the shape of what is
    viewed; store: the view through which the result is written, into a value of shape `value`.
    """
    builder = Builder()
    depth = int(numpy.prod(x[len(x) - contraction :]))
    lead = () if groups is None else (groups,)
    shapes = {"x": x, "weight": (*lead, *((columns, depth) if transposed else (depth, columns)))}
    if bias:
        shapes["bias"] = (*lead, columns)
    shapes.update({name: each for name, each in (("residual", residual), ("gate", gate)) if each is not None})
    attributes = {
        "activation": activation,
        "negative_slope": 0.2,
        "contraction": contraction,
        "transpose_weight": transposed,
        "unrounded": unrounded,
    }
    return _node(builder, "linear", shapes, dtype, attributes, views or {}, store, value)


def matmul(x, y, dtype="bfloat16", *, transpose_x=False, transpose_y=False, views=None, store=None, value=None):
    attributes = {"transpose_x": transpose_x, "transpose_y": transpose_y}
    return _node(Builder(), "matmul", {"x": x, "y": y}, dtype, attributes, views or {}, store, value)


def _node(builder, op, shapes, dtype, attributes, views, store, value):
    inputs, read = [], []
    for operand in op_named(op).operands:
        view, shape = views.get(operand.name, (None, shapes.get(operand.name)))
        inputs.append(builder.input(operand.name, shape, dtype).value if operand.name in shapes else None)
        read.append(view)
    node = builder.add_node(op_named(op), inputs, attributes, read)
    if store is None:
        return node
    written = type(node.output)(node.output.type.with_shape(value or node.output.shape), node.output.name)
    return Node(node.op, node.inputs, node.attributes, (written,), node.origin, node.views, (store,))


def interpretable(config):
    """The same for Triton's interpreter: it knows nothing of programmatic launches, nor of the host's tensor maps."""
    values = dict(config.values)
    values.update({name: 0 for name in ("programmatic", "host_maps") if name in values})
    return Config.of(**values)


def arrays_of(node):
    """Weights are scaled so that results are of the size of one."""
    arrays = []
    for position, value in enumerate(node.inputs):
        array = None if value is None else random_array(value.type, position)
        if position == 1:
            depth = node.input_type(0).shape[-1]
            array = (array / numpy.float32(max(depth, 1)) ** 0.5).astype(array.dtype)
        arrays.append(array)
    return arrays


def tolerance(node):
    """Of results of the size of one, as `arrays_of` makes them.

    Sums are of float32, one product after the other. Of n products, the k-th sum has the variance k / n, and is rounded
    by at most 2^-24 of itself, evenly distributed: together a standard deviation of 2^-24 sqrt(n / 6). Six of them are
    exceeded once in 5e8 elements. What follows the sum is right to 16 roundings, and the result is rounded, after
    something that was rounded elsewhere.
    """
    weight = node.input_type(1)
    depth = node.input_type(0).shape[-1]
    if node.op.name.startswith("conv2d"):
        depth = weight.size // weight.shape[node.op.name == "conv2d_transpose"]
    unit = ROUNDING["float32"]
    result = 2 * ROUNDING[node.output.dtype] if node.output.dtype != "float32" else 0.0
    return unit * (6 * (depth / 6) ** 0.5 + 16) + result


def require_right(node, actual, arrays):
    wide = [None if array is None else array.astype(numpy.float64) for array in arrays]
    (expected,) = evaluate_node(node, wide, "float64")
    assert actual.dtype == numpy_dtype(node.output.dtype)
    assert actual.shape == expected.shape
    actual = actual.astype(numpy.float64)
    assert numpy.isfinite(actual).all()
    error = numpy.abs(actual - expected) / (1 + numpy.abs(expected))
    assert error.max() <= tolerance(node)


def check_by_all(families, node, where, interpreted, on_device, least=1):
    """Checks the node with each of the families that supports it, `least` or more, where: "interpreted" or "device"."""
    target, check = (TARGET, interpreted) if where == "interpreted" else (device_target(), on_device)
    able = [family for family in families if family.supports(node, target)]
    assert len(able) >= least
    for family in able:
        check(family, node)


@contextlib.contextmanager
def mended_interpreter():
    """Triton's interpreter multiplies the bits of bfloat16 numbers, and asks NumPy for the number in an array of one
    element in a way that it no longer answers."""
    patch, dot = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot

    def patched(tensor, *arguments):
        patch(tensor, *arguments)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    def widened(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        wide = (handle.data.astype(numpy.uint32) << 16).view(numpy.float32)
        return interpreter.TensorHandle(wide, tl.float32)

    def multiplied(self, a, b, *rest):
        return dot(self, widened(a), widened(b), *rest)

    run_step = steps.run_step

    def step_run(step, memories, **named):
        if isinstance(step, Gemm):
            multiply(step, memories)
        else:
            run_step(step, memories, **named)

    interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot = patched, multiplied
    steps.run_step = step_run
    try:
        yield
    finally:
        steps.run_step = run_step
        interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot = patch, dot


def multiply(gemm, memories):
    """A Gemm by NumPy, in float64, from and to the places that it names."""

    def placed(matrix):
        elements = memories[matrix.pointer.buffer].bytes[matrix.pointer.offset :].view(numpy_dtype(matrix.dtype))
        size = elements.itemsize
        shape = (gemm.batch, matrix.rows, matrix.columns)
        strides = (matrix.batch_stride * size, matrix.row_stride * size, size)
        last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) // size
        assert last < elements.size
        return numpy.lib.stride_tricks.as_strided(elements, shape, strides)

    a, b, d = (placed(each) for each in (gemm.a, gemm.b, gemm.d))
    a = a.swapaxes(1, 2) if gemm.transpose_a else a
    b = b.swapaxes(1, 2) if gemm.transpose_b else b
    product = gemm.alpha * (a.astype(numpy.float64) @ b.astype(numpy.float64))
    if gemm.c is not None:
        product = product + gemm.beta * placed(gemm.c).astype(numpy.float64)
    if gemm.bias is not None:
        kind = numpy_dtype(gemm.d.dtype)
        bias = memories[gemm.bias.buffer].bytes[gemm.bias.offset :][: gemm.d.columns * kind.itemsize].view(kind)
        product = product + bias.astype(numpy.float64)
    if gemm.epilogue == "relu":
        product = numpy.maximum(product, 0)
    if gemm.epilogue == "gelu":
        product = 0.5 * product * (1 + numpy.tanh(numpy.sqrt(2 / numpy.pi) * (product + 0.044715 * product**3)))
    d[...] = product.astype(d.dtype)


def check(family, node, config=None, target=TARGET, arrays=None):
    """Interpreted here, with one configuration or the first, on arrays that suit the node."""
    assert family.supports(node, target)
    config = interpretable(config or family.configs(node, target)[0])
    arrays = arrays_of(node) if arrays is None else arrays
    with mended_interpreter():
        (actual,) = interpret(node, family.launches(node, config, target), arrays)
    require_right(node, actual, arrays)


def check_on_device(family, node, config=None, arrays=None):
    target = device_target()
    assert family.supports(node, target)
    config = config or family.configs(node, target)[0]
    arrays = arrays_of(node) if arrays is None else arrays
    (actual,) = run_on_device(node, family.launches(node, config, target), arrays)
    require_right(node, actual, arrays)
