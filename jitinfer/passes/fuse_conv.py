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
    """A convolution with or without a bias, before any activation."""
    return ops.conv2d(x, weight, optional(bias), activation="none")


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


@graph_pass("fuse_conv_activation")
class FuseConvActivation(RewritePass):
    """activation(conv2d(x, weight, bias))  ->  conv2d(x, weight, bias, activation)"""

    def pattern(self, x: Any, weight: Any, bias: Any) -> Any:
        product = _convolved(x, weight, bias)
        return either(*(getattr(ops, name)(product, label="activation") for name in ACTIVATIONS))

    def replace(self, m: Match) -> Any:
        attributes = {**m.conv2d.attributes, "activation": activation_name(m.activation)}
        return ops.conv2d(m.x, m.weight, m.bias, **attributes)
