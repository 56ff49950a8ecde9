"""Activations from the forms in which models write them out."""

from __future__ import annotations

import math
from typing import Any

from jitinfer.graph.arithmetic import ops
from jitinfer.passes.pattern import Match, constant, either
from jitinfer.passes.rewrite import RewritePass, graph_pass


def _near(expected: float) -> Any:
    """A constant that is `expected` as far as float32 can tell: to two units in its last place."""
    return constant(lambda number: abs(number - expected) <= 2.0**-22 * expected)


@graph_pass("form_silu")
class FormSilu(RewritePass):
    """x * sigmoid(x)  ->  silu(x). Searching for Activation Functions, Ramachandran, Zoph and Le, 2017."""

    def pattern(self, x: Any) -> Any:
        return x * ops.sigmoid(x)

    def replace(self, m: Match) -> Any:
        return ops.silu(m.x)


@graph_pass("form_gelu")
class FormGelu(RewritePass):
    """x * Phi(x) by erf, by tanh, or as x * sigmoid(1.702 x)  ->  gelu(x). Hendrycks and Gimpel, 2016."""

    def pattern(self, x: Any) -> Any:
        root = math.sqrt(2.0)
        erf = ops.erf(either(ops.divide(x, _near(root)), x * _near(1 / root)))
        cube = either(ops.power(x, 3.0), x * (x * x))
        tanh = ops.tanh((x + cube * _near(0.044715)) * _near(math.sqrt(2 / math.pi)))
        quick = ops.sigmoid(x * _near(1.702))
        both = 1.0 + either(erf, tanh)
        return either(x * quick, (x * 0.5) * both, (x * both) * 0.5, (both * 0.5) * x)

    def where(self, m: Match) -> bool:
        return bool(m.x.type.floating)

    def replace(self, m: Match) -> Any:
        return ops.gelu(m.x, approximate="none" if m.erf else "tanh" if m.tanh else "sigmoid")
