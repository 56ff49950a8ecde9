"""Nodes of the norms over rows, for tests."""

import math

from jitinfer.graph import Builder, View, op_named
from jitinfer.graph.node import Node


def node_of(
    op,
    shape,
    dtype="float32",
    *,
    affine=True,
    modulation=None,
    views=None,
    store=None,
    axes=1,
    parts=3,
    summed="float32",
):
    """A node of `op` over x of `shape`, or over so many `parts` of that shape and the dtype `summed`.

    modulation: shape of scale, shift and gate, for the ops that have them; views: by operand, the view through which
    it is read and the shape of what is viewed; store: the view through which the last result is written.
    """
    builder = Builder()
    views = dict(views or {})
    width = shape[len(shape) - axes :]
    modulation = modulation or (shape[0], *[1] * (len(shape) - 2), shape[-1])
    plain = op in ("layer_norm", "rms_norm")
    shapes = {"x": shape}
    if op.startswith("gated"):
        shapes.update(residual=shape, gate=modulation)
    if not plain:
        shapes.update(scale=modulation, shift=modulation)
    if affine:
        shapes.update(dict.fromkeys(("scale", "bias") if plain else ("weight", "bias"), width))
    if op.endswith("_of_parts"):
        shapes.update(parts=(parts, *shapes.pop("x")), **({"x_bias": width} if affine else {}))
        if "x" in views:
            view, buffer = views.pop("x")
            spread = View((parts, *view.shape), (math.prod(buffer), *view.strides), view.offset)
            views["parts"] = (spread, (parts, *buffer))
    operands = [each.name for each in op_named(op).operands]
    inputs, read = [], []
    for name in operands:
        view, buffer = views.get(name, (None, shapes.get(name)))
        given = name in shapes
        inputs.append(builder.input(name, buffer, summed if name == "parts" else dtype).value if given else None)
        read.append(view)
    attributes = {"epsilon": 1e-5, **({"axes": axes} if plain else {})}
    node = builder.add_node(op_named(op), inputs, attributes, read)
    if store is None:
        return node
    stores = (*[None] * (len(node.outputs) - 1), store)
    return Node(node.op, node.inputs, node.attributes, node.outputs, node.origin, node.views, stores)
