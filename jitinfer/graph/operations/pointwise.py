"""Pointwise ops: one result element from the elements at its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy
import scipy.special

from jitinfer.graph.op import Kind, Op, register, require
from jitinfer.graph.types import DTYPES, INTEGRAL, TensorType, numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Array = Any
"""A NumPy array, of one of the dtypes that the graph has."""


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape by NumPy's rules. Raises TypeMismatch."""
    try:
        return numpy.broadcast_shapes(*shapes)
    except ValueError:
        require(False, "shapes " + ", ".join(map(str, map(list, shapes))) + " cannot be broadcast together")
        raise


class Unary(Op):
    """`function` of each element; the result has the operand's type, or is bool where it asks a question."""

    kind = Kind.POINTWISE
    strided = True

    def __init__(self, name: str, function: Callable[[Array], Array], *, cost: int = 1, asks: bool = False) -> None:
        self.name = name  # type: ignore[misc]
        self._function = function
        self._cost = cost
        self._asks = asks

    def infer(self, x: TensorType) -> TensorType:
        return x.with_dtype("bool") if self._asks else x

    def evaluate(self, x: Array) -> Array:
        return self._function(x)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        return self._cost * outputs[0].size


class Binary(Op):
    """`function` of two operands of one dtype, with NumPy's broadcasting."""

    kind = Kind.POINTWISE
    strided = True

    def __init__(
        self, name: str, function: Callable[[Array, Array], Array], *, commutative: bool = False, asks: bool = False
    ) -> None:
        self.name = name  # type: ignore[misc]
        self.commutative = commutative  # type: ignore[misc]
        self._function = function
        self._asks = asks

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        require(x.dtype == y.dtype, "the dtypes differ")
        return TensorType(broadcast(x.shape, y.shape), "bool" if self._asks else x.dtype)

    def evaluate(self, x: Array, y: Array) -> Array:
        return self._function(x, y)


def sigmoid(x: Array) -> Array:
    return scipy.special.expit(x)


def _divide(x: Array, y: Array) -> Array:
    """Integers are divided towards zero, as C does."""
    if numpy.issubdtype(x.dtype, numpy.integer):
        return numpy.trunc(x / y).astype(x.dtype)
    return x / y


_UNARY: dict[str, Callable[[Array], Array]] = {
    "abs": numpy.abs,
    "ceil": numpy.ceil,
    "cos": numpy.cos,
    "erf": scipy.special.erf,
    "exp": numpy.exp,
    "floor": numpy.floor,
    "log": numpy.log,
    "log1p": numpy.log1p,
    "negative": numpy.negative,
    "relu": lambda x: numpy.maximum(x, 0),
    "round": numpy.round,
    "rsqrt": lambda x: 1 / numpy.sqrt(x),
    "sigmoid": sigmoid,
    "sign": numpy.sign,
    "silu": lambda x: x * sigmoid(x),
    "sin": numpy.sin,
    "softplus": lambda x: numpy.logaddexp(x, x.dtype.type(0)),
    "sqrt": numpy.sqrt,
    "tanh": numpy.tanh,
}
for _name, _function in _UNARY.items():
    register(Unary(_name, _function))
for _name, _question in {"logical_not": numpy.logical_not, "isnan": numpy.isnan, "isfinite": numpy.isfinite}.items():
    register(Unary(_name, _question, asks=True))

_BINARY: dict[str, tuple[Callable[[Array, Array], Array], bool]] = {
    "add": (numpy.add, True),
    "subtract": (numpy.subtract, False),
    "multiply": (numpy.multiply, True),
    "divide": (_divide, False),
    "power": (numpy.power, False),
    "maximum": (numpy.maximum, True),
    "minimum": (numpy.minimum, True),
    "floor_divide": (numpy.floor_divide, False),
    "remainder": (numpy.remainder, False),
    "bitwise_and": (numpy.bitwise_and, True),
    "bitwise_or": (numpy.bitwise_or, True),
    "bitwise_xor": (numpy.bitwise_xor, True),
}
for _name, (_binary, _commutes) in _BINARY.items():
    register(Binary(_name, _binary, commutative=_commutes))

_COMPARISONS: dict[str, tuple[Callable[[Array, Array], Array], bool]] = {
    "equal": (numpy.equal, True),
    "not_equal": (numpy.not_equal, True),
    "less": (numpy.less, False),
    "less_equal": (numpy.less_equal, False),
    "greater": (numpy.greater, False),
    "greater_equal": (numpy.greater_equal, False),
    "logical_and": (numpy.logical_and, True),
    "logical_or": (numpy.logical_or, True),
    "logical_xor": (numpy.logical_xor, True),
}
for _name, (_binary, _commutes) in _COMPARISONS.items():
    register(Binary(_name, _binary, commutative=_commutes, asks=True))


def gelu(x: Array, approximate: str) -> Array:
    """Gaussian error linear unit, Hendrycks and Gimpel, 2016: x * Phi(x), or one of its two approximations."""
    if approximate == "sigmoid":
        return x * sigmoid(numpy.asarray(1.702, x.dtype) * x)
    if approximate == "tanh":
        return 0.5 * x * (1 + numpy.tanh(numpy.sqrt(2 / numpy.pi).astype(x.dtype) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + scipy.special.erf(x / numpy.sqrt(2).astype(x.dtype)))


class Gelu(Op):
    """x * Phi(x), where Phi is the normal distribution's.

    `approximate`: "tanh" for 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), "sigmoid" for x sigmoid(1.702 x).
    """

    name = "gelu"
    kind = Kind.POINTWISE
    strided = True

    def infer(self, x: TensorType, *, approximate: str = "none") -> TensorType:
        known = ("none", "tanh", "sigmoid")
        require(approximate in known, f"approximate is one of {', '.join(known)}, not {approximate!r}")
        require(x.floating, "it is for floating dtypes")
        return x

    def evaluate(self, x: Array, *, approximate: str) -> Array:
        return gelu(x, approximate)


class LeakyRelu(Op):
    """x where x >= 0, else negative_slope * x."""

    name = "leaky_relu"
    kind = Kind.POINTWISE
    strided = True

    def infer(self, x: TensorType, *, negative_slope: float = 0.01) -> TensorType:
        return x

    def evaluate(self, x: Array, *, negative_slope: float) -> Array:
        return numpy.where(x >= 0, x, x * x.dtype.type(negative_slope))


class Cast(Op):
    """The same numbers in another dtype; to an integer, towards zero."""

    name = "cast"
    kind = Kind.POINTWISE
    strided = True

    def infer(self, x: TensorType, *, dtype: str) -> TensorType:
        require(dtype in DTYPES, f"there is no dtype {dtype!r}")
        return x.with_dtype(dtype)

    def evaluate(self, x: Array, *, dtype: str) -> Array:
        return x.astype(numpy_dtype(dtype))


class Where(Op):
    """x where the condition holds, else y."""

    name = "where"
    kind = Kind.POINTWISE
    strided = True

    def infer(self, condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
        require(condition.dtype == "bool", "the condition is not bool")
        require(x.dtype == y.dtype, "the dtypes differ")
        return TensorType(broadcast(condition.shape, x.shape, y.shape), x.dtype)

    def evaluate(self, condition: Array, x: Array, y: Array) -> Array:
        return numpy.where(condition, x, y)


class Clip(Op):
    """min(max(x, low), high)."""

    name = "clip"
    kind = Kind.POINTWISE
    strided = True

    def infer(self, x: TensorType, *, low: float, high: float) -> TensorType:
        require(x.floating or x.dtype in INTEGRAL, "it is for numbers")
        require(low <= high, f"{low} is above {high}")
        return x

    def evaluate(self, x: Array, *, low: float, high: float) -> Array:
        if not numpy.issubdtype(x.dtype, numpy.floating):
            bounds = numpy.iinfo(x.dtype)
            low, high = max(low, bounds.min), min(high, bounds.max)
        return numpy.minimum(numpy.maximum(x, x.dtype.type(low)), x.dtype.type(high))


for _class in (Gelu, LeakyRelu, Cast, Where, Clip):
    register(_class())
