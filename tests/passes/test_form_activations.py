"""Activations that models write out."""

import math

import pytest

from jitinfer.graph import Builder, ops
from jitinfer.testing import PassTest

ROOT = math.sqrt(2.0)
TANH = math.sqrt(2 / math.pi)
INNER = {
    "erf of a quotient": lambda x: ops.erf(ops.divide(x, ROOT)),
    "erf of a product": lambda x: ops.erf(x * (1 / ROOT)),
    "tanh of a power": lambda x: ops.tanh((x + 0.044715 * ops.power(x, 3.0)) * TANH),
    "tanh of products": lambda x: ops.tanh(TANH * (x + 0.044715 * (x * x * x))),
}
OUTER = {
    "half of x first": lambda x, y: (0.5 * x) * (1.0 + y),
    "half at last": lambda x, y: (x * (y + 1.0)) * 0.5,
    "half of the sum": lambda x, y: x * (0.5 * (1.0 + y)),
}


class TestFormActivations(PassTest):
    passes = ("form_silu", "form_gelu")
    tolerance = 1e-6  # the constants are rounded to float32: 6e-8 of each

    def becomes_one(self, function, name, **attributes):
        builder = Builder()
        graph = builder.build(function(builder.input("x", (4, 8))))
        node = self.becomes(graph, {name: 1}).nodes[0]
        assert {key: node.attributes[key] for key in attributes} == attributes

    @pytest.mark.parametrize("inner", INNER)
    @pytest.mark.parametrize("outer", OUTER)
    def test_gelu(self, inner, outer):
        approximate = "tanh" if inner.startswith("tanh") else "none"
        self.becomes_one(lambda x: OUTER[outer](x, INNER[inner](x)), "gelu", approximate=approximate)

    def test_quick_gelu(self):
        self.becomes_one(lambda x: x * ops.sigmoid(1.702 * x), "gelu", approximate="sigmoid")

    def test_silu(self):
        self.becomes_one(lambda x: ops.sigmoid(x) * x, "silu")

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: x * ops.sigmoid(1.7 * x),
            lambda x: (0.5 * x) * (1.0 + ops.erf(x)),
            lambda x: (0.4 * x) * (1.0 + ops.erf(x * (1 / ROOT))),
            lambda x: (0.5 * x) * (2.0 + ops.erf(x * (1 / ROOT))),
            lambda x: (0.5 * ops.relu(x)) * (1.0 + ops.erf(x * (1 / ROOT))),
            lambda x: (0.5 * x) * (1.0 + ops.tanh((x + 0.045 * ops.power(x, 3.0)) * TANH)),
            lambda x: (0.5 * x) * (1.0 + ops.tanh((x + 0.044715 * ops.power(x, 2.0)) * TANH)),
            lambda x: ops.relu(x) * ops.sigmoid(x),
        ],
    )
    def test_what_only_looks_like_one_stays(self, function):
        builder = Builder()
        self.stays(builder.build(function(builder.input("x", (4, 8)))))
