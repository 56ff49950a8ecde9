"""One node for each way that a generated kernel is written, at the shapes of models: what is compiled and timed."""

from generated_cases import node_of

from jitinfer.graph import Builder, View, ops

BF16 = "bfloat16"


def group_of(body, views=()):
    return node_of("group", [(value.shape, value.dtype) for value in body.inputs], {"body": body}, views=views)


def gated_residual(batch, rows, width, dtype=BF16):
    """residual + gate * x, and its norm with scale and shift, as the passes make them."""
    builder = Builder()
    x, residual = (builder.input(name, (batch, rows, width), dtype) for name in ("x", "residual"))
    gate, scale, shift = (builder.input(name, (batch, 1, width), dtype) for name in ("gate", "scale", "shift"))
    total = residual + gate * x
    return group_of(builder.build(total, ops.layer_norm(total, axes=1, epsilon=1e-6) * (scale + 1.0) + shift))


def activations(rows, width, dtype=BF16):
    builder = Builder()
    x, y, bias = (builder.input(n, s, dtype) for n, s in (("x", (rows, width)), ("y", (rows, width)), ("b", (width,))))
    return group_of(builder.build(ops.gelu(x + bias, approximate="tanh") * y, ops.silu(x) + y * 0.5))


def packed_heads(batch, heads, rows, dim, part):
    """A view of queries (0), keys (1) or values (2) in [batch, rows, 3, heads, dim], heads in front."""
    width = 3 * heads * dim
    return View((batch, heads, rows, dim), (rows * width, dim, width, 1), part * heads * dim)


def rotary(batch, heads, rows, dim, style, rotary_dim=0):
    turned = rotary_dim or dim
    view = packed_heads(batch, heads, rows, dim, 1)
    inputs = [((batch, rows, 3 * heads * dim), BF16), ((rows, turned), "float32"), ((rows, turned), "float32")]
    attributes = {"style": style, "rotary_dim": rotary_dim}
    return node_of("rotary", inputs, attributes, views=(view, None, None))


def representative():
    """By a name for people."""
    pool = {"window": (3, 3), "strides": (2, 2), "padding": ((1, 1), (1, 1))}
    group = {"groups": 32, "activation": "silu"}
    turned = View((512, 512), (1, 512), 0)
    vector = ((320,), BF16)
    return {
        "pointwise group": activations(512, 4608),
        "gated residual adaLN": gated_residual(2, 256, 1152),
        "add of heads": node_of(
            "add", [((2, 256, 3456), BF16), ((2, 16, 256, 72), BF16)], views=(packed_heads(2, 16, 256, 72, 0), None)
        ),
        "exp of a transpose": node_of("exp", [((512, 512), "float32")], views=(turned,)),
        "sin": node_of("sin", [((2, 1153), "float32")]),
        "power": node_of("power", [((64, 64), "float32")] * 2),
        "integers": node_of("floor_divide", [((1000,), "int64")] * 2),
        "integer power": node_of("power", [((64,), "int32")] * 2),
        "remainder": node_of("remainder", [((64,), "float32")] * 2),
        "float64": node_of("gelu", [((64, 64), "float64")]),
        "bool": node_of("logical_and", [((64, 64), "bool")] * 2),
        "real": node_of("real", [((64, 64), "complex64")]),
        "softmax": node_of("softmax", [((64, 4096), BF16)]),
        "softmax of columns": node_of("softmax", [((2, 77, 256), BF16)], {"axis": 1}),
        "long softmax": node_of("softmax", [((4, 50257), "float32")]),
        "long log softmax": node_of("log_softmax", [((4, 50257), BF16)]),
        "layer norm": node_of("layer_norm", [((512, 1152), BF16), ((1152,), BF16), ((1152,), BF16)]),
        "group norm": node_of("group_norm", [((2, 320, 16, 16), BF16), vector, vector], group),
        "large group norm": node_of("group_norm", [((1, 320, 64, 64), BF16), vector, vector], group),
        "sum of all": node_of("sum", [((2, 1024, 1024), BF16)], {"axes": (0, 1, 2)}),
        "mean over tokens": node_of("mean", [((2, 256, 1152), BF16)], {"axes": (1,)}),
        "product": node_of("prod", [((64, 100), "float32")], {"axes": (1,)}),
        "any": node_of("any", [((64, 100), "float32")], {"axes": (1,)}),
        "largest": node_of("max", [((64, 100), "float32")], {"axes": (1,)}),
        "argmax": node_of("argmax", [((4, 32000), BF16)], {"axis": 1}),
        "rotary half": rotary(2, 16, 256, 64, "half"),
        "rotary interleaved": rotary(2, 16, 256, 64, "interleaved"),
        "rotary of a part": rotary(2, 16, 256, 64, "half", 32),
        "timesteps": node_of("timestep_embedding", [((2,), "int64"), ((128,), "float32")]),
        "transpose": node_of("transpose", [((2, 1024, 1152), BF16)], {"permutation": (0, 2, 1)}),
        "concat": node_of("concat", [((2, 256, 1536), BF16), ((2, 77, 1536), BF16)], {"axis": 1}),
        "embedding": node_of("gather", [((32000, 4096), BF16), ((1, 77), "int64")]),
        "gather_nd": node_of("gather_nd", [((4, 77, 768), BF16), ((4, 2), "int64")]),
        "take along axis": node_of("take_along_axis", [((4, 77), BF16), ((4, 5), "int64")], {"axis": 1}),
        "pad": node_of(
            "pad", [((1, 128, 64, 64), BF16)], {"low": (0, 0, 1, 1), "high": (0, 0, 1, 1), "mode": "reflect"}
        ),
        "resize": node_of("resize_nearest", [((1, 128, 64, 64), BF16)], {"size": (128, 128)}),
        "average pool": node_of("average_pool2d", [((1, 128, 64, 64), BF16)], pool),
        "largest pool": node_of("max_pool2d", [((1, 128, 64, 64), BF16)], pool),
        "cumsum": node_of("cumsum", [((4, 4096), "float32")], {"axis": 1}),
        "top k": node_of("top_k", [((64, 64), "float32")], {"k": 8}),
        "top k of parts": node_of("top_k", [((2, 8000), BF16)], {"k": 50}),
        "argsort": node_of("argsort", [((4, 1000), BF16)], {"axis": 1}),
        "iota": node_of("iota", [], {"size": 1000}),
        "full": node_of("full", [], {"shape": (100,), "value": 0.5, "dtype": "float32"}),
    }
