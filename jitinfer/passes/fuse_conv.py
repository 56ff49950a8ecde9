"""fuse_conv: a convolution with the batch norm, bias and activation that follow it becomes one node."""

from __future__ import annotations

from typing import Any

from jitinfer.graph.arithmetic import ops
from jitinfer.passes.fuse_linear import activation_name
from jitinfer.passes.pattern import Match, either, optional
from jitinfer.passes.rewrite import RewritePass, graph_pass

ACTIVATIONS = ("gelu", "silu", "relu", "sigmoid")
"""The ops that a convolution's epilogue can apply."""


def _per_channel(shape: tuple[int, ...], channels: int) -> bool:
    """Whether it is [channels, 1, 1], or [1, channels, 1, 1]."""
    return shape in ((channels, 1, 1), (1, channels, 1, 1))


def _convolved(x: Any, weight: Any, bias: Any) -> Any:
    """A convolution with or without a bias, before any residual and activation."""
    return ops.conv2d(x, weight, optional(bias), activation="none")


@graph_pass("fuse_conv_padding")
class FuseConvPadding(RewritePass):
    """conv2d(x with zeros around its rows and columns, weight)  ->  conv2d(x, weight, padding)"""

    def pattern(self, x: Any, weight: Any, bias: Any, residual: Any) -> Any:
        return ops.conv2d(ops.pad(x, mode="constant"), weight, optional(bias), optional(residual))

    def where(self, m: Match) -> bool:
        return m.pad.value == 0 and not any((*m.pad.low[:2], *m.pad.high[:2]))

    def replace(self, m: Match) -> Any:
        around = zip(m.pad.low[2:], m.pad.high[2:], m.conv2d.padding, strict=True)
        padding = tuple((low + before, high + behind) for low, high, (before, behind) in around)
        return ops.conv2d(m.x, m.weight, m.bias, m.residual, **{**m.conv2d.attributes, "padding": padding})


@graph_pass("fuse_conv_scale")
class FuseConvScale(RewritePass):
    """conv2d(x, weight, bias) * scale [C, 1, 1]  ->  conv2d(x, weight * scale, bias * scale)

    With fuse_conv_bias that is batch norm in eval mode, whose scale is known when the weights are.
    """

    def pattern(self, x: Any, weight: Any, bias: Any, scale: Any) -> Any:
        return _convolved(x, weight, bias) * scale

    def where(self, m: Match) -> bool:
        return _per_channel(m.scale.shape, m.weight.shape[0])

    def replace(self, m: Match) -> Any:
        scale = ops.reshape(m.scale, shape=(m.weight.shape[0],))
        bias = None if m.bias is None else m.bias * scale
        weight = m.weight * ops.reshape(scale, shape=(m.weight.shape[0], 1, 1, 1))
        return ops.conv2d(m.x, weight, bias, **m.conv2d.attributes)


@graph_pass("fuse_conv_bias")
class FuseConvBias(RewritePass):
    """conv2d(x, weight, bias) + more [C, 1, 1]  ->  conv2d(x, weight, bias + more)"""

    def pattern(self, x: Any, weight: Any, bias: Any, more: Any) -> Any:
        return _convolved(x, weight, bias) + more

    def where(self, m: Match) -> bool:
        return _per_channel(m.more.shape, m.weight.shape[0])

    def replace(self, m: Match) -> Any:
        more = ops.reshape(m.more, shape=(m.weight.shape[0],))
        return ops.conv2d(m.x, m.weight, more if m.bias is None else m.bias + more, **m.conv2d.attributes)


@graph_pass("fuse_conv_residual")
class FuseConvResidual(RewritePass):
    """conv2d(x, weight, bias) + residual  ->  conv2d(x, weight, bias, residual)"""

    def pattern(self, x: Any, weight: Any, bias: Any, residual: Any) -> Any:
        return _convolved(x, weight, bias) + residual

    def where(self, m: Match) -> bool:
        result = m.conv2d.output
        return bool(m.nodes[0].output.type == result.type and m.residual.dtype == result.dtype)

    def replace(self, m: Match) -> Any:
        return ops.conv2d(m.x, m.weight, m.bias, m.residual, **m.conv2d.attributes)


@graph_pass("fuse_conv_activation")
class FuseConvActivation(RewritePass):
    """activation(conv2d(x, weight, bias, residual))  ->  conv2d(x, weight, bias, residual, activation)"""

    def pattern(self, x: Any, weight: Any, bias: Any, residual: Any) -> Any:
        product = ops.conv2d(x, weight, optional(bias), optional(residual), activation="none")
        return either(*(getattr(ops, name)(product, label="activation") for name in ACTIVATIONS))

    def replace(self, m: Match) -> Any:
        attributes = {**m.conv2d.attributes, "activation": activation_name(m.activation)}
        return ops.conv2d(m.x, m.weight, m.bias, m.residual, **attributes)
