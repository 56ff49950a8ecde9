"""Pointwise ops as expressions of Triton: one line for each op of the table.

Narrow floating types are computed in float32, the others in their own; `computed` says so. The operands of an
expression are texts of blocks of one such type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.types import FLOATING, INTEGRAL, NARROW, numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TYPES = {
    "bool": "tl.int1",
    "int8": "tl.int8",
    "uint8": "tl.uint8",
    "int16": "tl.int16",
    "int32": "tl.int32",
    "int64": "tl.int64",
    "float8_e4m3fn": "tl.float8e4nv",
    "float8_e5m2": "tl.float8e5",
    "float16": "tl.float16",
    "bfloat16": "tl.bfloat16",
    "float32": "tl.float32",
    "float64": "tl.float64",
}


def computed(dtype: str) -> str:
    """The type in which values of `dtype` are held in registers."""
    return "float32" if dtype in NARROW else dtype


def literal(value: Any, dtype: str) -> str:
    """A number as a block of one element of `dtype`, which is one to compute in."""
    return f"tl.full([1, 1], {number(value, dtype)}, {TYPES[dtype]})"


def number(value: Any, dtype: str) -> str:
    """Python's text of a number after rounding to `dtype`."""
    plain = numpy.asarray(value).astype(numpy_dtype(dtype)).item()
    if isinstance(plain, float) and not numpy.isfinite(plain):
        return f'float("{plain}")'
    return repr(plain)


def converted(text: str, source: str, target: str) -> str:
    """A block of the computed type `source` in the type that `target` is computed in; to integers towards zero."""
    goal = computed(target)
    if goal == source:
        return text
    if goal == "bool":
        return f"({text} != 0)"
    if source in FLOATING and goal in ("int8", "uint8", "int16"):
        return f"{text}.to(tl.int32).to({TYPES[goal]})"
    return f"{text}.to({TYPES[goal]})"


_FLOAT_UNARY = {
    "cos": "libdevice.cos({0})",
    "erf": "libdevice.erf({0})",
    "exp": "libdevice.exp({0})",
    "log": "libdevice.log({0})",
    "log1p": "libdevice.log1p({0})",
    "rsqrt": "libdevice.rsqrt({0})",
    "sigmoid": "arithmetic.sigmoid({0})",
    "silu": "arithmetic.silu({0})",
    "sin": "libdevice.sin({0})",
    "softplus": "arithmetic.softplus({0})",
    "sqrt": "libdevice.sqrt_rn({0})",
    "tanh": "libdevice.tanh({0})",
}
_ROUNDING = {"ceil": "libdevice.ceil({0})", "floor": "libdevice.floor({0})", "round": "libdevice.rint({0})"}
_COMPARISONS = {
    "equal": "{0} == {1}",
    "not_equal": "{0} != {1}",
    "less": "{0} < {1}",
    "less_equal": "{0} <= {1}",
    "greater": "{0} > {1}",
    "greater_equal": "{0} >= {1}",
}
_LOGICAL = {
    "logical_and": "({0} != 0) & ({1} != 0)",
    "logical_or": "({0} != 0) | ({1} != 0)",
    "logical_xor": "({0} != 0) ^ ({1} != 0)",
}
_FLOAT_BINARY = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "libdevice.div_rn({0}, {1})",
    "power": "libdevice.pow({0}, {1})",
    "floor_divide": "arithmetic.float_floor_divide({0}, {1})",
    "remainder": "arithmetic.float_remainder({0}, {1})",
}
_INTEGER_BINARY = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "arithmetic.integer_divide({0}, {1})",
    "floor_divide": "arithmetic.integer_floor_divide({0}, {1})",
    "remainder": "arithmetic.integer_remainder({0}, {1})",
    "bitwise_and": "{0} & {1}",
    "bitwise_or": "{0} | {1}",
    "bitwise_xor": "{0} ^ {1}",
}
_BOOL_BINARY = {
    "add": "{0} | {1}",
    "multiply": "{0} & {1}",
    "maximum": "{0} | {1}",
    "minimum": "{0} & {1}",
    "bitwise_and": "{0} & {1}",
    "bitwise_or": "{0} | {1}",
    "bitwise_xor": "{0} ^ {1}",
}


def _unary(name: str, x: str, dtype: str) -> str | None:
    if name == "logical_not":
        return f"{x} == 0"
    if dtype == "bool":
        return x if name == "abs" else None
    floating = dtype in FLOATING
    if name in ("isnan", "isfinite"):
        if not floating:
            return f"{x} != {x}" if name == "isnan" else f"{x} == {x}"
        return f"{x} != {x}" if name == "isnan" else f'tl.abs({x}) < float("inf")'
    if name in _ROUNDING:
        return _ROUNDING[name].format(x) if floating else x
    if name == "abs":
        return x if dtype == "uint8" else f"tl.abs({x})"
    if name == "negative":
        # Not 0 - x: minus zero is the negative of zero.
        return f"{x} * -1.0" if floating else f"tl.zeros_like({x}) - {x}"
    if name == "relu":
        return f"tl.where({x} < 0, 0, {x})" if not floating else f"tl.where({x} < 0, 0.0, {x})"
    if name == "sign":
        return f"arithmetic.sign({x})"
    template = _FLOAT_UNARY.get(name)
    if template is None:
        return None
    if floating:
        return template.format(x)
    # Of integers, as the reference has it: in float64, then towards zero.
    return converted(template.format(f"{x}.to(tl.float64)"), "float64", dtype)


def _extreme(name: str, x: str, y: str, dtype: str) -> str:
    kind = "_float32" if dtype == "float32" else ""
    return f"arithmetic.{name}{kind}({x}, {y})"


def _binary(name: str, x: str, y: str, dtype: str) -> str | None:
    if name in _LOGICAL:
        return _LOGICAL[name].format(x, y)
    if name in _COMPARISONS:
        small = dtype == "bool"
        return _COMPARISONS[name].format(*(f"{each}.to(tl.int32)" if small else each for each in (x, y)))
    if dtype == "bool":
        template = _BOOL_BINARY.get(name)
    elif name in ("maximum", "minimum"):
        return _extreme(name, x, y, dtype)
    elif dtype in FLOATING:
        template = _FLOAT_BINARY.get(name)
    elif name == "power":
        bits = 8 * numpy_dtype(dtype).itemsize
        return f"arithmetic.integer_power(*tl.broadcast({x}, {y}), {bits})"
    else:
        template = _INTEGER_BINARY.get(name)
    return None if template is None else template.format(x, y)


def _gelu(x: str, dtype: str, attributes: Mapping[str, Any]) -> str:
    suffix = "" if attributes["approximate"] == "none" else f"_{attributes['approximate']}"
    return f"arithmetic.gelu{suffix}({x})"


def _leaky_relu(x: str, dtype: str, attributes: Mapping[str, Any]) -> str | None:
    if dtype == "bool":
        return None
    return f"tl.where({x} < 0, {x} * {literal(attributes['negative_slope'], dtype)}, {x})"


def _clip(x: str, dtype: str, attributes: Mapping[str, Any]) -> str:
    low, high = attributes["low"], attributes["high"]
    if dtype in INTEGRAL:
        bounds = numpy.iinfo(numpy_dtype(dtype))
        low, high = max(low, bounds.min), min(high, bounds.max)
    return _extreme("minimum", _extreme("maximum", x, literal(low, dtype), dtype), literal(high, dtype), dtype)


_WITH_ATTRIBUTES: dict[str, Callable[[str, str, Mapping[str, Any]], str | None]] = {
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "clip": _clip,
}
_UNARY = frozenset({*_FLOAT_UNARY, *_ROUNDING, "abs", "negative", "relu", "sign", "isnan", "isfinite", "logical_not"})
_BINARY = frozenset({*_COMPARISONS, *_LOGICAL, *_FLOAT_BINARY, *_INTEGER_BINARY, "maximum", "minimum"})
POINTWISE = frozenset({*_WITH_ATTRIBUTES, *_UNARY, *_BINARY, "cast", "where", "swiglu"})


def expression(name: str, operands: Sequence[str], dtypes: Sequence[str], attributes: Mapping[str, Any]) -> str | None:
    """The value of an op of POINTWISE; None for operands of a type that it has no meaning for.

    dtypes: the computed types of the operands.
    """
    x, dtype = operands[0], dtypes[0]
    if name == "cast":
        return converted(x, dtype, attributes["dtype"])
    if name == "where":
        return f"tl.where({', '.join(operands)})"
    if name == "swiglu":
        return f"arithmetic.silu({x}) * {operands[1]}" if dtype in FLOATING else None
    if name in _WITH_ATTRIBUTES:
        return _WITH_ATTRIBUTES[name](x, dtype, attributes)
    if name in _BINARY:
        return _binary(name, x, operands[1], dtype)
    return _unary(name, x, dtype) if name in _UNARY else None
