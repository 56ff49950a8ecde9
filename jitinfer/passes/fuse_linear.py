"""fuse_linear: a matmul by a matrix, with what follows it, becomes one GEMM with an epilogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.graph.arithmetic import ops
from jitinfer.passes.pattern import Match, either, optional
from jitinfer.passes.rewrite import RewritePass, graph_pass

if TYPE_CHECKING:
    from jitinfer.graph.node import Node

ACTIVATIONS = ("gelu", "silu", "relu", "leaky_relu", "sigmoid")
"""The ops that a GEMM's epilogue can apply."""


@graph_pass("form_linear")
class FormLinear(RewritePass):
    """matmul(x [..., K], weight [K, N] or, transposed, [N, K])  ->  linear(x, weight)"""

    def pattern(self, x: Any, weight: Any) -> Any:
        return ops.matmul(x, weight, transpose_x=False)

    def where(self, m: Match) -> bool:
        return len(m.weight.shape) == 2 and len(m.x.shape) >= 2

    def replace(self, m: Match) -> Any:
        return ops.linear(m.x, m.weight, transpose_weight=m.matmul.transpose_y)


@graph_pass("fuse_linear_bias")
class FuseLinearBias(RewritePass):
    """linear(x, weight) + bias [N]  ->  linear(x, weight, bias)"""

    def pattern(self, x: Any, weight: Any, bias: Any) -> Any:
        return ops.linear(x, weight, activation="none") + bias

    def where(self, m: Match) -> bool:
        linear = m.linear
        return len(m.weight.shape) == 2 and m.bias.shape == linear.output.shape[-1:] and len(linear.inputs) == 2

    def replace(self, m: Match) -> Any:
        return ops.linear(m.x, m.weight, m.bias, **m.linear.attributes)


@graph_pass("fuse_linear_activation")
class FuseLinearActivation(RewritePass):
    """activation(linear(x, weight, bias))  ->  linear(x, weight, bias, activation)"""

    def pattern(self, x: Any, weight: Any, bias: Any) -> Any:
        product = ops.linear(x, weight, optional(bias), activation="none")
        return either(*(getattr(ops, name)(product, label="activation") for name in ACTIVATIONS))

    def replace(self, m: Match) -> Any:
        attributes = {**m.linear.attributes, "activation": activation_name(m.activation)}
        if m.activation.op.name == "leaky_relu":
            attributes["negative_slope"] = m.activation.negative_slope
        return ops.linear(m.x, m.weight, m.bias, **attributes)


@graph_pass("fuse_linear_gate")
class FuseLinearGate(RewritePass):
    """gate * linear(x, weight, bias)  ->  linear(x, weight, bias, gate=gate)"""

    def pattern(self, x: Any, weight: Any, bias: Any, gate: Any) -> Any:
        return ops.linear(x, weight, optional(bias)) * gate

    def where(self, m: Match) -> bool:
        return _keeps_type(m)

    def replace(self, m: Match) -> Any:
        return ops.linear(m.x, m.weight, m.bias, None, m.gate, **m.linear.attributes)


@graph_pass("fuse_linear_residual")
class FuseLinearResidual(RewritePass):
    """residual + linear(x, weight, bias, gate=gate)  ->  linear(x, weight, bias, residual, gate)"""

    def pattern(self, x: Any, weight: Any, bias: Any, gate: Any, residual: Any) -> Any:
        return ops.linear(x, weight, optional(bias), None, optional(gate)) + residual

    def where(self, m: Match) -> bool:
        return _keeps_type(m)

    def replace(self, m: Match) -> Any:
        return ops.linear(m.x, m.weight, m.bias, m.residual, m.gate, **m.linear.attributes)


def _keeps_type(m: Match) -> bool:
    """Whether the sum or product is of the type of the linear product in it: no broadcasting of that one."""
    result, inner = m.nodes[0].output, m.linear.output
    return bool(result.type == inner.type)


def activation_name(node: Node) -> str:
    """What an epilogue calls the activation that `node` is."""
    approximation = node.attributes.get("approximate", "none")
    return node.op.name if approximation == "none" else f"{node.op.name}_{approximation}"
