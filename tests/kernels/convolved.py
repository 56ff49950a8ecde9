"""Nodes of convolutions for tests, and how they are checked against the op table's reference in float64."""

import math

import numpy
import products

from jitinfer.graph import Builder, View, op_named
from jitinfer.graph.node import Node, Value
from jitinfer.testing import random_array


def channels_last(shape):
    """The view through which [N, H, W, C] is read as [N, C, H, W] of `shape`, and the shape that lies in memory."""
    batch, channels, height, width = shape
    memory = (batch, height, width, channels)
    return View.of(memory).transpose((0, 3, 1, 2)), memory


def convolution(x, weight, dtype="bfloat16", *, op="conv2d", bias=True, residual=None, last=False, **attributes):
    """x, weight, residual: shapes. last: image, weight and result have their channels last in memory."""
    builder = Builder()
    views, shapes = [None, None, None], [x, weight]
    if last:
        (views[0], shapes[0]), (views[1], shapes[1]) = channels_last(x), channels_last(weight)
    operands = [builder.input(name, shape, dtype).value for name, shape in zip(("x", "weight"), shapes, strict=True)]
    if bias:
        outputs = weight[0] if op == "conv2d" else weight[1] * attributes.get("groups", 1)
        operands.append(builder.input("bias", (outputs,), dtype).value)
    if residual is not None:
        operands += [None] * (3 - len(operands))
        view, shape = channels_last(residual) if last and len(residual) == 4 else (None, residual)
        operands.append(builder.input("residual", shape, dtype).value)
        views.append(view)
    node = builder.add_node(op_named(op), operands, attributes, views)
    if not last:
        return node
    store, memory = channels_last(node.output.shape)
    written = Value(node.output.type.with_shape(memory), node.output.name)
    return Node(node.op, node.inputs, node.attributes, (written,), node.origin, node.views, (store,))


def arrays_of(node):
    """Weights are scaled so that results are of the size of one."""
    arrays = [None if value is None else random_array(value.type, i) for i, value in enumerate(node.inputs)]
    kind = node.input_type(1)
    summed = math.prod(kind.shape[1:]) if node.op.name == "conv2d" else kind.size // kind.shape[1]
    arrays[1] = (arrays[1] / numpy.float32(max(summed, 1)) ** 0.5).astype(arrays[1].dtype)
    return arrays


def check(family, node, config=None):
    """Interpreted here, with one configuration or the first."""
    products.check(family, node, config, arrays=arrays_of(node))


def check_on_device(family, node, config=None):
    products.check_on_device(family, node, config, arrays=arrays_of(node))
