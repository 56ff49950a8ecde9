"""What passes make of several ops: one pass over memory for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.op import Kind, Op, register, require
from jitinfer.graph.operations.pointwise import broadcast, sigmoid
from jitinfer.graph.operations.reduction import affine, layer_norm
from jitinfer.graph.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = Any
"""A NumPy array, of one of the dtypes that the graph has."""


def _modulation(x: TensorType, **operands: TensorType | None) -> None:
    for name, each in operands.items():
        require(each is None or broadcast(each.shape, x.shape) == x.shape, f"its {name} does not fit x")


def _adaptive(x: Array, scale: Array, shift: Array, weight: Array | None, bias: Array | None, epsilon: float) -> Array:
    return affine(layer_norm(x, 1, epsilon), weight, bias) * (1 + scale) + shift


class AdaptiveLayerNorm(Op):
    """layer_norm(x, weight, bias) * (1 + scale) + shift, over the last axis; Peebles and Xie, 2023."""

    name = "adaptive_layer_norm"
    kind = Kind.REDUCTION
    strided = True

    def infer(
        self,
        x: TensorType,
        scale: TensorType,
        shift: TensorType,
        weight: TensorType | None = None,
        bias: TensorType | None = None,
        *,
        epsilon: float = 1e-5,
    ) -> TensorType:
        _modulation(x, scale=scale, shift=shift, weight=weight, bias=bias)
        return x

    def evaluate(
        self,
        x: Array,
        scale: Array,
        shift: Array,
        weight: Array | None = None,
        bias: Array | None = None,
        *,
        epsilon: float,
    ) -> Array:
        return _adaptive(x, scale, shift, weight, bias, epsilon)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        return 10 * outputs[0].size


class GatedResidualAdaptiveLayerNorm(Op):
    """r = residual + gate * x, and adaptive_layer_norm(r, scale, shift, weight, bias)."""

    name = "gated_residual_adaptive_layer_norm"
    kind = Kind.REDUCTION
    strided = True

    def infer(
        self,
        x: TensorType,
        residual: TensorType,
        gate: TensorType,
        scale: TensorType,
        shift: TensorType,
        weight: TensorType | None = None,
        bias: TensorType | None = None,
        *,
        epsilon: float = 1e-5,
    ) -> tuple[TensorType, TensorType]:
        _modulation(x, residual=residual, gate=gate, scale=scale, shift=shift, weight=weight, bias=bias)
        return x, x

    def evaluate(
        self,
        x: Array,
        residual: Array,
        gate: Array,
        scale: Array,
        shift: Array,
        weight: Array | None = None,
        bias: Array | None = None,
        *,
        epsilon: float,
    ) -> tuple[Array, Array]:
        total = residual + gate * x
        return total, _adaptive(total, scale, shift, weight, bias, epsilon)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        return 12 * outputs[0].size


class GatedResidualAdaptiveLayerNormOfParts(Op):
    """gated_residual_adaptive_layer_norm of the sum of `parts` over its first axis, plus x_bias.

    parts: [P, ..., C], as a product gives them that is computed in parts of its sum, unrounded; results: [..., C], of
    the residual's dtype.
    """

    name = "gated_residual_adaptive_layer_norm_of_parts"
    kind = Kind.REDUCTION
    strided = True

    def infer(
        self,
        parts: TensorType,
        residual: TensorType,
        gate: TensorType,
        scale: TensorType,
        shift: TensorType,
        weight: TensorType | None = None,
        bias: TensorType | None = None,
        x_bias: TensorType | None = None,
        *,
        epsilon: float = 1e-5,
    ) -> tuple[TensorType, TensorType]:
        require(parts.rank > 1 and parts.shape[0] > 0, "it has no parts")
        require(parts.floating and residual.floating, "its operands are no floating numbers")
        require(residual.shape == parts.shape[1:], "its residual has not the shape of a part")
        _modulation(residual, gate=gate, scale=scale, shift=shift, weight=weight, bias=bias, x_bias=x_bias)
        return residual, residual

    def evaluate(
        self,
        parts: Array,
        residual: Array,
        gate: Array,
        scale: Array,
        shift: Array,
        weight: Array | None = None,
        bias: Array | None = None,
        x_bias: Array | None = None,
        *,
        epsilon: float,
    ) -> tuple[Array, Array]:
        x = parts.sum(0) if x_bias is None else parts.sum(0) + x_bias
        total = residual + gate * x
        return total, _adaptive(total, scale, shift, weight, bias, epsilon)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        parts = inputs[0]
        assert parts is not None
        return parts.size + 12 * outputs[0].size


class Swiglu(Op):
    """silu(gate) * up; Shazeer, 2020."""

    name = "swiglu"
    kind = Kind.POINTWISE
    strided = True

    def infer(self, gate: TensorType, up: TensorType) -> TensorType:
        require(gate == up, "gate and up differ")
        return gate

    def evaluate(self, gate: Array, up: Array) -> Array:
        return gate * sigmoid(gate) * up


class Rotary(Op):
    """x * cos + turned(x) * sin, on the first `rotary_dim` elements of the last axis (0: all); Su et al., 2021.

    turned(x): of each pair (a, b), (-b, a). The pairs are neighbours ("interleaved"), or as far apart as half of what
    is turned ("half"). The elements behind stay as they are (Black et al., 2022, GPT-NeoX).
    """

    name = "rotary"
    kind = Kind.POINTWISE
    strided = True

    def infer(
        self, x: TensorType, cos: TensorType, sin: TensorType, *, style: str = "half", rotary_dim: int = 0
    ) -> TensorType:
        require(style in ("half", "interleaved"), f"there is no style {style!r}")
        require(x.rank > 0 and 0 <= rotary_dim <= x.shape[-1], f"its last axis has no {rotary_dim} elements")
        turned = rotary_dim or x.shape[-1]
        require(turned % 2 == 0, "its last axis has no pairs")
        _modulation(x.with_shape((*x.shape[:-1], turned)), cos=cos, sin=sin)
        return x

    def evaluate(self, x: Array, cos: Array, sin: Array, *, style: str, rotary_dim: int) -> Array:
        x, rest = numpy.split(x, [rotary_dim or x.shape[-1]], axis=-1)
        if style == "half":
            first, second = numpy.split(x, 2, axis=-1)
            turned = numpy.concatenate([-second, first], axis=-1)
        else:
            turned = numpy.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
        return numpy.concatenate([x * cos + turned * sin, rest], axis=-1)


class TimestepEmbedding(Op):
    """cos(t * f) and sin(t * f) side by side; t: [N], f: [F]; result: [N, 2 F], in float32."""

    name = "timestep_embedding"
    kind = Kind.POINTWISE
    strided = True

    def infer(self, t: TensorType, frequencies: TensorType, *, sin_first: bool = False) -> TensorType:
        require(t.rank == frequencies.rank == 1, "t and the frequencies are vectors")
        return TensorType((t.shape[0], 2 * frequencies.shape[0]), "float32")

    def evaluate(self, t: Array, frequencies: Array, *, sin_first: bool) -> Array:
        angles = t[:, None].astype(frequencies.dtype) * frequencies
        parts = [numpy.cos(angles), numpy.sin(angles)]
        return numpy.concatenate(parts[::-1] if sin_first else parts, axis=1)


for _class in (
    AdaptiveLayerNorm,
    GatedResidualAdaptiveLayerNorm,
    GatedResidualAdaptiveLayerNormOfParts,
    Swiglu,
    Rotary,
    TimestepEmbedding,
):
    register(_class())
