"""Matrix products, and attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.op import Kind, Op, register, require
from jitinfer.graph.operations.pointwise import broadcast, gelu, sigmoid
from jitinfer.graph.operations.reduction import softmax

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitinfer.graph.types import TensorType

Array = Any
"""A NumPy array, of one of the dtypes that the graph has."""


def _turned(shape: tuple[int, ...], transposed: bool) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if transposed else shape


class Matmul(Op):
    """numpy.matmul, of the last two axes transposed where asked for."""

    name = "matmul"
    kind = Kind.CONTRACTION
    strided = True

    def infer(
        self, x: TensorType, y: TensorType, *, transpose_x: bool = False, transpose_y: bool = False
    ) -> TensorType:
        require(x.dtype == y.dtype, "the dtypes differ")
        require(x.rank > 0 and y.rank > 0, "a scalar is no matrix")
        require(x.rank > 1 or not transpose_x, "a vector cannot be transposed")
        require(y.rank > 1 or not transpose_y, "a vector cannot be transposed")
        left = _turned(x.shape, transpose_x) if x.rank > 1 else (1, *x.shape)
        right = _turned(y.shape, transpose_y) if y.rank > 1 else (*y.shape, 1)
        require(left[-1] == right[-2], f"{left[-1]} columns meet {right[-2]} rows")
        shape = broadcast(left[:-2], right[:-2])
        shape += left[-2:-1] if x.rank > 1 else ()
        shape += right[-1:] if y.rank > 1 else ()
        return x.with_shape(shape)

    def evaluate(self, x: Array, y: Array, *, transpose_x: bool, transpose_y: bool) -> Array:
        x = x.swapaxes(-1, -2) if transpose_x else x
        y = y.swapaxes(-1, -2) if transpose_y else y
        return numpy.matmul(x, y)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **attributes: Any) -> int:
        x = inputs[0]
        assert x is not None
        return 2 * outputs[0].size * (x.shape[-2] if attributes["transpose_x"] else x.shape[-1])


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda y: y,
    "gelu": lambda y: gelu(y, "none"),
    "gelu_tanh": lambda y: gelu(y, "tanh"),
    "gelu_sigmoid": lambda y: gelu(y, "sigmoid"),
    "silu": lambda y: y * sigmoid(y),
    "relu": lambda y: numpy.maximum(y, 0),
    "sigmoid": sigmoid,
}


class Linear(Op):
    """residual + gate * activation(x @ weight + bias)

    x: [..., K1, ..., Kc], of which the last `contraction` axes are summed over; weight: [K, N], or [N, K] with
    `transpose_weight`; or [G, K, N], and x: [G, ...]: one product for each of G. bias: [N], or [G, N].
    residual, gate: anything that broadcasts to the result, [..., N]. unrounded: the result is in float32, whatever x
    is.
    """

    name = "linear"
    kind = Kind.CONTRACTION
    strided = True

    def infer(
        self,
        x: TensorType,
        weight: TensorType,
        bias: TensorType | None = None,
        residual: TensorType | None = None,
        gate: TensorType | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
        contraction: int = 1,
        transpose_weight: bool = False,
        unrounded: bool = False,
    ) -> TensorType:
        require(activation in ACTIVATIONS or activation == "leaky_relu", f"there is no activation {activation!r}")
        require(weight.rank in (2, 3), "its weight is no matrix, nor one for each group")
        groups = weight.shape[:-2]
        rows, columns = _turned(weight.shape, transpose_weight)[-2:]
        require(0 < contraction <= x.rank - len(groups), f"x has no {contraction} axes to sum over")
        require(x.shape[: len(groups)] == groups, f"x has not the {groups} groups of the weight")
        kept = x.shape[: x.rank - contraction]
        summed = x.with_shape(x.shape[x.rank - contraction :]).size
        require(summed == rows, f"{summed} columns meet {rows} rows")
        require(bias is None or bias.shape == (*groups, columns), f"its bias is not {[*groups, columns]}")
        shape = (*kept, columns)
        for name, each in (("residual", residual), ("gate", gate)):
            require(each is None or broadcast(each.shape, shape) == shape, f"its {name} does not fit {list(shape)}")
        return x.with_shape(shape).with_dtype("float32") if unrounded else x.with_shape(shape)

    def evaluate(
        self,
        x: Array,
        weight: Array,
        bias: Array | None = None,
        residual: Array | None = None,
        gate: Array | None = None,
        *,
        activation: str,
        negative_slope: float,
        contraction: int,
        transpose_weight: bool,
        unrounded: bool,
    ) -> Array:
        weight = weight.swapaxes(-1, -2) if transpose_weight else weight
        kept = x.shape[: x.ndim - contraction]
        groups = weight.shape[:-2]
        rows = numpy.ascontiguousarray(x).reshape((*groups, -1, weight.shape[-2]))
        y = rows @ weight
        if bias is not None:
            y = y + bias[..., None, :]
        if activation == "leaky_relu":
            y = numpy.where(y >= 0, y, y * y.dtype.type(negative_slope))
        else:
            y = ACTIVATIONS[activation](y)
        y = y.reshape((*kept, weight.shape[-1]))
        y = y if gate is None else gate * y
        return y if residual is None else residual + y

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **attributes: Any) -> int:
        weight = inputs[1]
        assert weight is not None
        return 2 * outputs[0].size * weight.shape[-1 if attributes["transpose_weight"] else -2]


class Attention(Op):
    """softmax(scale * q k^T + mask) v for each head; Vaswani et al., 2017.

    q: [batch, q_len, heads, head_dim]; k: [batch, kv_len, kv_heads, head_dim]; v: [batch, kv_len, kv_heads, v_dim],
    where kv_heads divides heads (grouped-query attention, Ainslie et al., 2023); mask: broadcasts to
    [batch, heads, q_len, kv_len], added if floating, True for "visible" if bool. causal: key j is visible to query i
    if j <= i + kv_len - q_len. Result: [batch, q_len, heads, v_dim].
    """

    name = "attention"
    kind = Kind.CONTRACTION
    strided = True

    def infer(
        self,
        q: TensorType,
        k: TensorType,
        v: TensorType,
        mask: TensorType | None = None,
        *,
        scale: float,
        causal: bool = False,
    ) -> TensorType:
        require(q.rank == k.rank == v.rank == 4, "q, k and v have four axes")
        require(q.dtype == k.dtype == v.dtype, "the dtypes differ")
        require(q.shape[0] == k.shape[0] == v.shape[0], "the batches differ")
        require(k.shape[1:3] == v.shape[1:3], "k and v differ in length or heads")
        require(q.shape[3] == k.shape[3], "q and k differ in the size of a head")
        require(k.shape[2] > 0 and q.shape[2] % k.shape[2] == 0, f"{q.shape[2]} heads do not share {k.shape[2]}")
        scores = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
        require(mask is None or broadcast(mask.shape, scores) == scores, f"its mask does not fit {list(scores)}")
        return q.with_shape((*q.shape[:3], v.shape[3]))

    def evaluate(self, q: Array, k: Array, v: Array, mask: Array | None = None, *, scale: float, causal: bool) -> Array:
        shared = q.shape[2] // k.shape[2]
        q, k, v = (each.transpose(0, 2, 1, 3) for each in (q, k, v))
        k, v = (numpy.repeat(each, shared, axis=1) for each in (k, v))
        scores = (q @ k.swapaxes(-1, -2)) * q.dtype.type(scale)
        if mask is not None:
            scores = numpy.where(mask, scores, -numpy.inf) if mask.dtype == numpy.bool_ else scores + mask
        if causal:
            rows, columns = scores.shape[-2:]
            visible = numpy.arange(columns) <= numpy.arange(rows)[:, None] + columns - rows
            scores = numpy.where(visible, scores, -numpy.inf)
        weights = softmax(scores.astype(q.dtype), -1)
        return (weights @ v).transpose(0, 2, 1, 3)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        q, k, v = inputs[:3]
        assert q is not None
        assert k is not None
        assert v is not None
        return 2 * q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1] * (q.shape[3] + v.shape[3])


for _class in (Matmul, Linear, Attention):
    register(_class())
