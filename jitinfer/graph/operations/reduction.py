"""Reductions, softmax and norms: ops over whole axes of one operand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.op import Kind, Op, register, require
from jitinfer.graph.operations.movement import normal_axis
from jitinfer.graph.operations.pointwise import sigmoid
from jitinfer.graph.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Array = Any
"""A NumPy array, of one of the dtypes that the graph has."""


class Reduction(Op):
    """`function` over the given axes."""

    kind = Kind.REDUCTION

    def __init__(self, name: str, function: Callable[..., Array], *, asks: bool = False) -> None:
        self.name = name  # type: ignore[misc]
        self._function = function
        self._asks = asks

    def infer(self, x: TensorType, *, axes: tuple[int, ...], keepdims: bool = False) -> TensorType:
        reduced = {normal_axis(axis, x.rank) for axis in axes}
        require(len(reduced) == len(axes), f"{axes} names an axis twice")
        if self.name in ("max", "min", "mean"):
            require(all(x.shape[axis] for axis in reduced), "there is no result over no elements")
        shape = tuple(1 if axis in reduced else dim for axis, dim in enumerate(x.shape))
        kept = shape if keepdims else tuple(dim for axis, dim in enumerate(shape) if axis not in reduced)
        return TensorType(kept, "bool" if self._asks else x.dtype)

    def evaluate(self, x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
        return self._function(x, axis=axes, keepdims=keepdims)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        return sum(each.size for each in inputs if each is not None)


_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "sum": numpy.sum,
    "mean": numpy.mean,
    "max": numpy.max,
    "min": numpy.min,
    "prod": numpy.prod,
}
for _name, _function in _REDUCTIONS.items():
    register(Reduction(_name, _function))
for _name, _question in {"any": numpy.any, "all": numpy.all}.items():
    register(Reduction(_name, _question, asks=True))


class ArgExtreme(Op):
    """The first index of the largest, or smallest, element along `axis`."""

    kind = Kind.REDUCTION

    def __init__(self, name: str, function: Callable[..., Array]) -> None:
        self.name = name  # type: ignore[misc]
        self._function = function

    def infer(self, x: TensorType, *, axis: int, keepdims: bool = False, dtype: str = "int64") -> TensorType:
        axis = normal_axis(axis, x.rank)
        middle = (1,) if keepdims else ()
        return TensorType((*x.shape[:axis], *middle, *x.shape[axis + 1 :]), dtype)

    def evaluate(self, x: Array, *, axis: int, keepdims: bool, dtype: str) -> Array:
        return self._function(x, axis=axis, keepdims=keepdims)


register(ArgExtreme("argmax", numpy.argmax))
register(ArgExtreme("argmin", numpy.argmin))


class Cumsum(Op):
    """Sums of all elements up to each place along `axis`; `exclusive`: without its own; `reverse`: from the end."""

    name = "cumsum"
    kind = Kind.REDUCTION

    def infer(self, x: TensorType, *, axis: int, reverse: bool = False, exclusive: bool = False) -> TensorType:
        normal_axis(axis, x.rank)
        return x

    def evaluate(self, x: Array, *, axis: int, reverse: bool, exclusive: bool) -> Array:
        turned = numpy.flip(x, axis) if reverse else x
        total = numpy.cumsum(turned, axis=axis, dtype=x.dtype)
        total = total - turned if exclusive else total
        return numpy.flip(total, axis) if reverse else total


def softmax(x: Array, axis: int) -> Array:
    """exp(x - max) / sum(exp(x - max)); a row of -inf alone gives nan, as it does on a GPU."""
    weights = numpy.exp(x - x.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)


class Softmax(Op):
    """exp(x) / sum(exp(x)) along `axis`."""

    name = "softmax"
    kind = Kind.REDUCTION

    def infer(self, x: TensorType, *, axis: int = -1) -> TensorType:
        require(x.floating, "it is for floating dtypes")
        require(x.shape[normal_axis(axis, x.rank)] > 0, "there is no result over no elements")
        return x

    def evaluate(self, x: Array, *, axis: int) -> Array:
        return softmax(x, axis)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        return 5 * outputs[0].size


class LogSoftmax(Softmax):
    """log(softmax(x)) along `axis`."""

    name = "log_softmax"

    def evaluate(self, x: Array, *, axis: int) -> Array:
        shifted = x - x.max(axis=axis, keepdims=True)
        return shifted - numpy.log(numpy.exp(shifted).sum(axis=axis, keepdims=True))


class Argsort(Op):
    """The indices in the order of the elements along `axis`; equal ones stay in their order."""

    name = "argsort"
    kind = Kind.REDUCTION

    def infer(self, x: TensorType, *, axis: int = -1, descending: bool = False) -> TensorType:
        normal_axis(axis, x.rank)
        return x.with_dtype("int64")

    def evaluate(self, x: Array, *, axis: int, descending: bool) -> Array:
        return argsort(x, axis, descending)


def argsort(x: Array, axis: int, descending: bool) -> Array:
    """Stable in both directions."""
    if not descending:
        return numpy.argsort(x, axis=axis, kind="stable")
    backwards = numpy.argsort(numpy.flip(x, axis), axis=axis, kind="stable")
    return x.shape[axis] - 1 - numpy.flip(backwards, axis)


class TopK(Op):
    """The k largest, or smallest, elements along `axis` in order, and their indices; of equal ones the first."""

    name = "top_k"
    kind = Kind.REDUCTION

    def infer(self, x: TensorType, *, k: int, axis: int = -1, largest: bool = True) -> tuple[TensorType, TensorType]:
        axis = normal_axis(axis, x.rank)
        require(0 < k <= x.shape[axis], f"there are no {k} elements along axis {axis}")
        values = x.with_shape((*x.shape[:axis], k, *x.shape[axis + 1 :]))
        return values, values.with_dtype("int64")

    def evaluate(self, x: Array, *, k: int, axis: int, largest: bool) -> tuple[Array, Array]:
        indices = numpy.take(argsort(x, axis, largest), numpy.arange(k), axis=axis)
        return numpy.take_along_axis(x, indices, axis), indices


for _class in (Cumsum, Softmax, LogSoftmax, Argsort, TopK):
    register(_class())


def affine(x: Array, scale: Array | None, bias: Array | None) -> Array:
    x = x if scale is None else x * scale
    return x if bias is None else x + bias


def layer_norm(x: Array, axes: int, epsilon: float) -> Array:
    """(x - mean) / sqrt(variance + epsilon) over the last `axes` axes; Ba, Kiros and Hinton, 2016."""
    over = tuple(range(x.ndim - axes, x.ndim))
    centred = x - x.mean(axis=over, keepdims=True)
    variance = (centred * centred).mean(axis=over, keepdims=True)
    return centred / numpy.sqrt(variance + x.dtype.type(epsilon))


def rms_norm(x: Array, axes: int, epsilon: float) -> Array:
    """x / sqrt(mean(x^2) + epsilon) over the last `axes` axes; Zhang and Sennrich, 2019."""
    over = tuple(range(x.ndim - axes, x.ndim))
    return x / numpy.sqrt((x * x).mean(axis=over, keepdims=True) + x.dtype.type(epsilon))


class Norm(Op):
    """Over the last `axes` axes, times scale, plus bias, which have the shape of those axes."""

    kind = Kind.REDUCTION
    strided = True

    def __init__(self, name: str, function: Callable[[Array, int, float], Array]) -> None:
        self.name = name  # type: ignore[misc]
        self._function = function

    def infer(
        self,
        x: TensorType,
        scale: TensorType | None = None,
        bias: TensorType | None = None,
        *,
        axes: int = 1,
        epsilon: float = 1e-5,
    ) -> TensorType:
        require(x.floating, "it is for floating dtypes")
        require(0 < axes <= x.rank, f"it has no {axes} axes to normalise")
        for name, each in (("scale", scale), ("bias", bias)):
            fits = each is None or (each.shape == x.shape[x.rank - axes :] and each.floating)
            require(fits, f"its {name} does not fit the last {axes} axes")
        return x

    def evaluate(
        self, x: Array, scale: Array | None = None, bias: Array | None = None, *, axes: int, epsilon: float
    ) -> Array:
        return affine(self._function(x, axes, epsilon), scale, bias)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        return 8 * outputs[0].size


register(Norm("layer_norm", layer_norm))
register(Norm("rms_norm", rms_norm))


class GroupNorm(Op):
    """Group normalisation of x [N, C, ...], Wu and He, 2018; scale and bias [C]; then the activation."""

    name = "group_norm"
    kind = Kind.REDUCTION
    strided = True

    def infer(
        self,
        x: TensorType,
        scale: TensorType | None = None,
        bias: TensorType | None = None,
        *,
        groups: int,
        epsilon: float = 1e-5,
        activation: str = "none",
    ) -> TensorType:
        require(x.floating and x.rank >= 2, "it is for floating [N, C, ...]")
        require(groups > 0 and x.shape[1] % groups == 0, f"{x.shape[1]} channels are not {groups} groups")
        require(activation in ("none", "silu"), f"there is no activation {activation!r}")
        for name, each in (("scale", scale), ("bias", bias)):
            require(each is None or each.shape == x.shape[1:2], f"its {name} is not [{x.shape[1]}]")
        return x

    def evaluate(
        self,
        x: Array,
        scale: Array | None = None,
        bias: Array | None = None,
        *,
        groups: int,
        epsilon: float,
        activation: str,
    ) -> Array:
        normal = layer_norm(x.reshape(x.shape[0], groups, -1), 1, epsilon).reshape(x.shape)
        column = (-1, *[1] * (x.ndim - 2))
        shaped = [None if each is None else each.reshape(column) for each in (scale, bias)]
        y = affine(normal, *shaped)
        return y * sigmoid(y) if activation == "silu" else y

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        return 8 * outputs[0].size


register(GroupNorm())
