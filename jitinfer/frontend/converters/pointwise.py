"""Pointwise operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.frontend.converters.movement import cut
from jitinfer.frontend.converters.registry import CONVERTERS, Converter, PirOp, converter, supported
from jitinfer.graph import ops
from jitinfer.graph.types import FLOATING

if TYPE_CHECKING:
    from jitinfer.frontend.importing import Importer

_SAME = "abs ceil cos erf exp floor log log1p round rsqrt sigmoid sign sin sqrt tanh logical_not relu silu"
_RENAMED = {"swish": "silu", "isnan": "isnan", "isfinite": "isfinite"}
_BINARY = {
    "add": "add",
    "subtract": "subtract",
    "multiply": "multiply",
    "divide": "divide",
    "maximum": "maximum",
    "minimum": "minimum",
    "floor_divide": "floor_divide",
    "remainder": "remainder",
    "elementwise_pow": "power",
    "equal": "equal",
    "not_equal": "not_equal",
    "less_than": "less",
    "less_equal": "less_equal",
    "greater_than": "greater",
    "greater_equal": "greater_equal",
    "logical_and": "logical_and",
    "logical_or": "logical_or",
    "logical_xor": "logical_xor",
    "bitwise_and": "bitwise_and",
    "bitwise_or": "bitwise_or",
    "bitwise_xor": "bitwise_xor",
}
_ORDER = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")


def _unary(name: str) -> Converter:
    def convert(importer: Importer, op: PirOp, x: Any) -> Any:
        floating = x.dtype in FLOATING or name in ("abs", "sign", "logical_not", "relu", "isnan", "isfinite")
        return getattr(ops, name)(x if floating else ops.cast(x, dtype="float32"))

    return convert


def _binary(name: str) -> Converter:
    def convert(importer: Importer, op: PirOp, x: Any, y: Any) -> Any:
        x, y = promoted(x, y)
        if name == "divide" and x.dtype not in FLOATING:
            supported(op.dtype in FLOATING, "a division of integers")
        return getattr(ops, name)(x, y)

    return convert


def promoted(x: Any, y: Any) -> tuple[Any, Any]:
    """Both in the wider of their dtypes; a floating one is wider than any integer."""
    if x.dtype == y.dtype:
        return x, y
    supported(x.dtype in _ORDER and y.dtype in _ORDER, f"{x.dtype} together with {y.dtype}")
    supported({x.dtype, y.dtype} != {"float16", "bfloat16"}, "float16 together with bfloat16")
    wider = max(x.dtype, y.dtype, key=_ORDER.index)
    return tuple(each if each.dtype == wider else ops.cast(each, dtype=wider) for each in (x, y))


for _name in _SAME.split():
    CONVERTERS["pd_op." + _name] = _unary(_name)
for _paddle, _name in _RENAMED.items():
    CONVERTERS["pd_op." + _paddle] = _unary(_name)
for _paddle, _name in _BINARY.items():
    CONVERTERS["pd_op." + _paddle] = _binary(_name)


@converter("scale")
def scale(importer: Importer, op: PirOp, x: Any, factor: Any) -> Any:
    """x * scale + bias, or (x + bias) * scale, in the dtype of x."""
    by = importer.number(factor)
    bias = op.attributes["bias"]
    if x.dtype not in FLOATING:
        supported(by is not None and by == int(by) and bias == int(bias), "a fraction of integers")
    factor = ops.reshape(ops.cast(factor, dtype=x.dtype), shape=()) if by is None else by
    integral = x.dtype not in FLOATING
    by_, plus = (int(by) if by is not None and integral else factor), (int(bias) if integral else bias)
    if op.attributes["bias_after_scale"]:
        y = x if by == 1.0 else x * by_
        return y if bias == 0.0 else y + plus
    y = x if bias == 0.0 else x + plus
    return y if by == 1.0 else y * by_


@converter("cast")
def cast(importer: Importer, op: PirOp, x: Any) -> Any:
    return ops.cast(x, dtype=op.attributes["dtype"])


@converter("pow")
def power(importer: Importer, op: PirOp, x: Any) -> Any:
    exponent = float(op.attributes["y"])
    if exponent == 2.0:
        return x * x
    return x**exponent


@converter("square")
def square(importer: Importer, op: PirOp, x: Any) -> Any:
    return x * x


@converter("reciprocal")
def reciprocal(importer: Importer, op: PirOp, x: Any) -> Any:
    return 1.0 / x


@converter("gelu")
def gelu(importer: Importer, op: PirOp, x: Any) -> Any:
    return ops.gelu(x, approximate="tanh" if op.attributes["approximate"] else "none")


_ACTIVATIONS = {
    "": lambda x: x,
    "identity": lambda x: x,
    "none": lambda x: x,
    "relu": lambda x: ops.relu(x),
    "sigmoid": lambda x: ops.sigmoid(x),
    "swish": lambda x: ops.silu(x),
    "silu": lambda x: ops.silu(x),
    "gelu": lambda x: ops.gelu(x),
}


def activated(name: str, x: Any) -> Any:
    """What a fused operator calls its activation. Raises UnsupportedForm."""
    supported(name in _ACTIVATIONS, f"the activation {name!r}")
    return _ACTIVATIONS[name](x)


@converter("leaky_relu")
def leaky_relu(importer: Importer, op: PirOp, x: Any) -> Any:
    return ops.leaky_relu(x, negative_slope=op.attributes["negative_slope"])


def softplus_of(x: Any) -> Any:
    """log(1 + exp(x)), without an overflow."""
    return ops.relu(x) + ops.log1p(ops.exp(-ops.abs(x)))


@converter("softplus")
def softplus(importer: Importer, op: PirOp, x: Any) -> Any:
    """log(1 + exp(beta x)) / beta, and x itself where beta x is above the threshold."""
    steep = x * float(op.attributes["beta"])
    y = softplus_of(steep) * (1.0 / op.attributes["beta"])
    return ops.where(ops.greater(steep, float(op.attributes["threshold"])), x, y)


@converter("mish")
def mish(importer: Importer, op: PirOp, x: Any) -> Any:
    return x * ops.tanh(softplus_of(x))


@converter("logsigmoid")
def logsigmoid(importer: Importer, op: PirOp, x: Any) -> Any:
    return -softplus_of(-x)


@converter("elu", "celu")
def elu(importer: Importer, op: PirOp, x: Any) -> Any:
    """x where it is positive, else alpha (exp(x) - 1); of celu, exp(x / alpha)."""
    alpha = float(op.attributes["alpha"])
    below = x if op.name == "pd_op.elu" else x * (1.0 / alpha)
    return ops.where(ops.greater(x, 0.0), x, (ops.exp(below) - 1.0) * alpha)


@converter("selu")
def selu(importer: Importer, op: PirOp, x: Any) -> Any:
    below = (ops.exp(x) - 1.0) * float(op.attributes["alpha"])
    return ops.where(ops.greater(x, 0.0), x, below) * float(op.attributes["scale"])


@converter("hardtanh")
def hardtanh(importer: Importer, op: PirOp, x: Any) -> Any:
    return ops.clip(x, low=op.attributes["t_min"], high=op.attributes["t_max"])


@converter("softsign")
def softsign(importer: Importer, op: PirOp, x: Any) -> Any:
    return x / (ops.abs(x) + 1.0)


@converter("tanh_shrink")
def tanh_shrink(importer: Importer, op: PirOp, x: Any) -> Any:
    return x - ops.tanh(x)


@converter("relu6")
def relu6(importer: Importer, op: PirOp, x: Any) -> Any:
    return ops.clip(x, low=0.0, high=6.0)


@converter("hardswish")
def hardswish(importer: Importer, op: PirOp, x: Any) -> Any:
    return x * ops.clip(x + 3.0, low=0.0, high=6.0) / 6.0


@converter("hardsigmoid")
def hardsigmoid(importer: Importer, op: PirOp, x: Any) -> Any:
    return ops.clip(x * op.attributes["slope"] + op.attributes["offset"], low=0.0, high=1.0)


@converter("where")
def where(importer: Importer, op: PirOp, condition: Any, x: Any, y: Any) -> Any:
    return ops.where(condition, *promoted(x, y))


@converter("clip")
def clip(importer: Importer, op: PirOp, x: Any, low: Any, high: Any) -> Any:
    bounds = importer.number(low), importer.number(high)
    supported(None not in bounds, "bounds that depend on data")
    return ops.clip(x, low=bounds[0], high=bounds[1])


@converter("dropout")
def dropout(importer: Importer, op: PirOp, x: Any, seed: Any, p: Any) -> Any:
    """What it does in eval mode: nothing, or a multiplication by the share that training keeps."""
    supported(op.attributes["is_test"], "dropout while training")
    if op.attributes["mode"] == "upscale_in_train":
        return x
    dropped = importer.number(p)
    supported(dropped is not None, "a probability that depends on data")
    return x if dropped is None else x * (1.0 - dropped)


@converter("assign", "share_data", "assign_out", "memcpy_h2d", "memcpy_d2h")
def assign(importer: Importer, op: PirOp, x: Any, *_: Any) -> Any:
    return x


@converter("swiglu")
def swiglu(importer: Importer, op: PirOp, x: Any, up: Any = None) -> Any:
    """Without `up`, the halves of x along its last axis."""
    if up is None:
        last, half = len(x.shape) - 1, x.shape[-1] // 2
        x, up = cut(x, last, 0, half), cut(x, last, half, x.shape[-1])
    return ops.silu(x) * up
