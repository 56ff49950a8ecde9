"""A graph evaluated by torch, op by op: a reference on the device that shares no code with the kernels.

Knows the ops of graphs as they are imported, before any pass.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 (as everybody does)

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int64": torch.int64,
    "int32": torch.int32,
    "bool": torch.bool,
    "complex64": torch.complex64,
}


def _matmul(x, y, transpose_x, transpose_y):
    return torch.matmul(x.mT if transpose_x else x, y.mT if transpose_y else y)


def _layer_norm(x, scale, bias, axes, epsilon):
    return F.layer_norm(x, x.shape[x.ndim - axes :], scale, bias, epsilon)


def _slice(x, starts, stops, steps):
    for axis, (start, stop, step) in enumerate(zip(starts, stops, steps, strict=True)):
        if step < 0:
            raise NotImplementedError("negative steps")
        x = x[(slice(None),) * axis + (slice(start, stop, step),)]
    return x


def _conv2d(x, weight, bias, residual, strides, padding, dilation, groups, activation):
    assert residual is None  # graphs are saved as imported, before anything is fused
    assert activation == "none"
    (top, bottom), (left, right) = padding
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, strides, 0, dilation, groups)


OPS = {
    "reshape": lambda x, shape: x.reshape(shape),
    "transpose": lambda x, permutation: x.permute(permutation),
    "slice": _slice,
    "broadcast_to": lambda x, shape: x.expand(shape),
    "concat": lambda *xs, axis: torch.cat(xs, axis),
    "add": torch.add,
    "subtract": torch.subtract,
    "multiply": torch.multiply,
    "divide": torch.divide,
    "matmul": _matmul,
    "layer_norm": _layer_norm,
    "softmax": lambda x, axis: torch.softmax(x, axis),
    "silu": F.silu,
    "gelu": lambda x, approximate: F.gelu(x, approximate=approximate),
    "exp": torch.exp,
    "cos": torch.cos,
    "sin": torch.sin,
    "gather": lambda x, indices, axis: torch.index_select(x, axis, indices.reshape(-1)).reshape(
        *x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]
    ),
    "conv2d": _conv2d,
    "real": torch.real,
    "imag": torch.imag,
}


def evaluate(graph, inputs, weights, dtype="float32"):
    """The outputs, with every floating value of `dtype`; what makes timesteps and angles stays float32 if narrow."""
    narrow = dtype in ("bfloat16", "float16")
    kept = set() if not narrow else _sensitive(graph)

    def kind(value):
        wide = value in kept or value.dtype not in ("float32", "float64")
        return DTYPES[value.dtype if wide else dtype]

    device = inputs[0].device
    values = {}
    for value, tensor in zip((*graph.inputs, *graph.parameters), (*inputs, *weights), strict=True):
        values[value] = tensor.to(kind(value))
    last = {value: node for node in graph.nodes for value in node.inputs}
    for node in graph.nodes:
        operands = [None if value is None else values[value] for value in node.inputs]
        (out,) = node.outputs
        attributes = dict(node.attributes)
        if node.op.name == "constant":
            result = torch.tensor(attributes["value"].array, device=device)
        elif node.op.name == "cast":
            result = operands[0]
        else:
            missing = len(node.op.operands) - len(operands)
            if node.op.operands and not node.op.operands[-1].variadic:
                operands += [None] * missing
            if out in kept and narrow:
                operands = [x.float() if x is not None and x.is_floating_point() else x for x in operands]
            elif narrow:
                operands = [x.to(kind(out)) if x is not None and x.is_floating_point() else x for x in operands]
            result = OPS[node.op.name](*operands, **attributes)
        values[out] = result.to(kind(out))
        for value in node.inputs:
            if value is not None and last[value] is node and value not in graph.outputs:
                values.pop(value, None)
    return [values[value] for value in graph.outputs]


def _sensitive(graph):
    """Sines, cosines, and what they are of."""
    found = set()
    for node in reversed(graph.nodes):
        if node.op.name in ("cos", "sin") or any(value in found for value in node.outputs):
            found.update(value for value in (*node.inputs, *node.outputs) if value is not None)
    given = {*graph.parameters}
    return {value for value in found if value not in given and math.prod(value.shape) < 1 << 20}


def relative_error(found, wanted):
    """||found - wanted|| / ||wanted||, in float64."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def random_weights(graph, device="cuda", seed=0):
    """As after training, roughly: products keep the size of what they are given."""
    generator = torch.Generator(device).manual_seed(seed)
    found = []
    for value in graph.parameters:
        if value.dtype == "complex64":
            angles = torch.randn(value.shape, generator=generator, device=device)
            found.append(torch.polar(torch.ones_like(angles), angles))
            continue
        scale = 1.0 / math.sqrt(value.shape[0]) if len(value.shape) > 1 else 0.1
        found.append(scale * torch.randn(value.shape, generator=generator, device=device))
    return found


def random_inputs(graph, device="cuda", seed=1):
    generator = torch.Generator(device).manual_seed(seed)
    return [
        torch.randint(0, 1000, value.shape, generator=generator, device=device)
        if value.dtype == "int64"
        else torch.randn(value.shape, generator=generator, device=device)
        for value in graph.inputs
    ]
