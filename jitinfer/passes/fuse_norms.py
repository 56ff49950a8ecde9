"""Norms from the forms in which models write them out."""

from __future__ import annotations

from typing import Any

from jitinfer.graph.arithmetic import ops
from jitinfer.passes.pattern import Match, constant, either, maybe, optional
from jitinfer.passes.rewrite import RewritePass, graph_pass


def _last_axis(m: Match, reduction: Any) -> bool:
    """Whether a matched reduction is over the last axis and keeps it."""
    last = len(m.x.shape) - 1
    return bool(reduction.keepdims) and reduction.axes in ((last,), (-1,))


@graph_pass("form_rms_norm")
class FormRmsNorm(RewritePass):
    """x * rsqrt(mean(x * x, last axis) + epsilon) [* scale]  ->  rms_norm(x, scale)

    Root mean square layer normalisation, Zhang and Sennrich, 2019.
    """

    def pattern(self, x: Any, scale: Any) -> Any:
        mean = ops.mean(either(x * x, ops.power(x, 2.0)))
        epsilon = constant(lambda number: 0 <= number < 1e-2, name="epsilon")
        shifted = mean + epsilon
        inverse = either(ops.rsqrt(shifted), 1.0 / ops.sqrt(shifted))
        return maybe(either(x * inverse, ops.divide(x, ops.sqrt(shifted))), lambda y: y * scale)

    def where(self, m: Match) -> bool:
        fits = m.scale is None or m.scale.shape == m.x.shape[-1:]
        return fits and _last_axis(m, m.mean) and m.x.type.floating

    def replace(self, m: Match) -> Any:
        return ops.rms_norm(m.x, m.scale, axes=1, epsilon=m.uniform("epsilon"))


@graph_pass("form_layer_norm")
class FormLayerNorm(RewritePass):
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon), over the last axis  ->  layer_norm(x)

    Layer normalisation, Ba, Kiros and Hinton, 2016.
    """

    def pattern(self, x: Any) -> Any:
        centred = x - ops.mean(x, label="first")
        variance = ops.mean(either(centred * centred, ops.power(centred, 2.0)), label="second")
        shifted = variance + constant(lambda number: 0 <= number < 1e-2, name="epsilon")
        return either(
            centred * either(ops.rsqrt(shifted), 1.0 / ops.sqrt(shifted)), ops.divide(centred, ops.sqrt(shifted))
        )

    def where(self, m: Match) -> bool:
        return _last_axis(m, m.first) and _last_axis(m, m.second) and m.x.type.floating

    def replace(self, m: Match) -> Any:
        return ops.layer_norm(m.x, axes=1, epsilon=m.uniform("epsilon"))


@graph_pass("fuse_norm_scale")
class FuseNormScale(RewritePass):
    """layer_norm(x) * scale [C]  ->  layer_norm(x, scale), and the same of rms_norm"""

    def pattern(self, x: Any, scale: Any) -> Any:
        norm = either(ops.layer_norm(x, axes=1, label="norm"), ops.rms_norm(x, axes=1, label="norm"))
        return norm * scale

    def where(self, m: Match) -> bool:
        return m.scale.shape == m.x.shape[-1:] and len(m.norm.inputs) == 1

    def replace(self, m: Match) -> Any:
        return getattr(ops, m.norm.op.name)(m.x, m.scale, axes=1, epsilon=m.norm.epsilon)


@graph_pass("fuse_norm_bias")
class FuseNormBias(RewritePass):
    """layer_norm(x, scale) + bias [C]  ->  layer_norm(x, scale, bias), and the same of rms_norm"""

    def pattern(self, x: Any, scale: Any, bias: Any) -> Any:
        forms = (function(x, scale, axes=1, label="norm") for function in (ops.layer_norm, ops.rms_norm))
        return either(*forms) + bias

    def where(self, m: Match) -> bool:
        return bool(m.bias.shape == m.x.shape[-1:]) and len(m.norm.inputs) == 2

    def replace(self, m: Match) -> Any:
        return getattr(ops, m.norm.op.name)(m.x, m.scale, m.bias, axes=1, epsilon=m.norm.epsilon)


@graph_pass("fuse_adaptive_layer_norm")
class FuseAdaptiveLayerNorm(RewritePass):
    """layer_norm(x) * (1 + scale) + shift  ->  adaptive_layer_norm(x, scale, shift)

    The block's norm of Scalable Diffusion Models with Transformers, Peebles and Xie, 2023.
    """

    def pattern(self, x: Any, weight: Any, bias: Any, scale: Any, shift: Any) -> Any:
        norm = ops.layer_norm(x, optional(weight), optional(bias), axes=1)
        factor = 1.0 + scale
        return norm * either(factor, ops.reshape(factor, label="spread")) + shift

    def where(self, m: Match) -> bool:
        # The sum and the product must not have been wider than x: that would be another result.
        widths = (self._scale_shape(m)[-1:], m.shift.shape[-1:])
        return all(width == m.x.shape[-1:] for width in widths) and m.x.type == m.nodes[0].output.type

    def replace(self, m: Match) -> Any:
        scale = m.scale if m.spread is None else ops.reshape(m.scale, shape=self._scale_shape(m))
        return ops.adaptive_layer_norm(m.x, scale, m.shift, m.weight, m.bias, epsilon=m.layer_norm.epsilon)

    def _scale_shape(self, m: Match) -> tuple[int, ...]:
        shape: tuple[int, ...] = m.scale.shape if m.spread is None else m.spread.output.shape
        return shape


@graph_pass("fuse_gated_residual_norm")
class FuseGatedResidualNorm(RewritePass):
    """r = residual + gate * x;  adaptive_layer_norm(r, scale, shift)  ->  both results of one pass over memory"""

    shared_allowed = False

    def pattern(self, x: Any, gate: Any, residual: Any, scale: Any, shift: Any, weight: Any, bias: Any) -> Any:
        total = residual + gate * x
        return ops.adaptive_layer_norm(total, scale, shift, optional(weight), optional(bias)), total

    def where(self, m: Match) -> bool:
        return m.x.type == m.residual.type == m.nodes[0].output.type and _one_row(m.gate.shape, m.x.shape)

    def replace(self, m: Match) -> Any:
        total, norm = ops.gated_residual_adaptive_layer_norm(
            m.x, m.residual, m.gate, m.scale, m.shift, m.weight, m.bias, epsilon=m.adaptive_layer_norm.epsilon
        )
        return norm, total


def _one_row(gate: tuple[int, ...], x: tuple[int, ...]) -> bool:
    """Whether the gate is the same for all tokens, as a modulation is; else x and gate could be told apart wrongly."""
    return len(gate) == len(x) and gate[-1] == x[-1] and gate[-2] == 1


@graph_pass("fuse_group_norm_silu")
class FuseGroupNormSilu(RewritePass):
    """silu(group_norm(x))  ->  group_norm(x, activation="silu")"""

    def pattern(self, x: Any, scale: Any, bias: Any) -> Any:
        return ops.silu(ops.group_norm(x, optional(scale), optional(bias), activation="none"))

    def replace(self, m: Match) -> Any:
        return ops.group_norm(m.x, m.scale, m.bias, **{**m.group_norm.attributes, "activation": "silu"})


@graph_pass("fuse_swiglu")
class FuseSwiglu(RewritePass):
    """silu(gate) * up  ->  swiglu(gate, up). GLU Variants Improve Transformer, Shazeer, 2020."""

    def pattern(self, gate: Any, up: Any) -> Any:
        return ops.silu(gate) * up

    def where(self, m: Match) -> bool:
        return bool(m.gate.type == m.up.type)

    def replace(self, m: Match) -> Any:
        return ops.swiglu(m.gate, m.up)
