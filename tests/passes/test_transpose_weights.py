"""Weights of products as [N, K]."""

import pytest

from jitinfer.graph import Builder, ops
from jitinfer.passes import run_passes
from jitinfer.testing import PassTest


class TestTransposeWeights(PassTest):
    passes = ("transpose_weights",)

    @pytest.mark.parametrize("groups", [(), (3,)])
    def test_it_fires(self, groups):
        builder = Builder()
        x, w = builder.input("x", (*groups, 4, 8)), builder.parameter("w", (*groups, 8, 6))
        y = ops.linear(x, w, builder.parameter("b", (*groups, 6)), activation="silu")
        graph = builder.build(y)
        after = self.becomes(graph, {"transpose": 1, "linear": 1})
        assert after.nodes[-1].transpose_weight
        after, _ = run_passes(after, ["weight_prologue"], check=True)
        assert dict(after.counts()) == {"linear": 1}

    def test_several_products_share_the_weight(self):
        builder = Builder()
        x, w = builder.input("x", (4, 8)), builder.parameter("w", (8, 8))
        self.becomes(builder.build(ops.linear(ops.linear(x, w), w)), {"transpose": 1, "linear": 2})

    def test_with_residual_and_gate(self):
        builder = Builder()
        x, w, gate = builder.input("x", (4, 8)), builder.parameter("w", (8, 8)), builder.input("g", (1, 8))
        self.becomes(builder.build(ops.linear(x, w, None, x, gate)), {"transpose": 1, "linear": 1})

    def test_not_what_lies_so_already(self):
        builder = Builder()
        x, w = builder.input("x", (4, 8)), builder.parameter("w", (6, 8))
        self.stays(builder.build(ops.linear(x, w, transpose_weight=True)))

    def test_not_what_others_read_too(self):
        builder = Builder()
        x, w = builder.input("x", (4, 8)), builder.parameter("w", (8, 8))
        rows = ops.gather(w, builder.input("i", (4,), "int64"))
        self.stays(builder.build(ops.linear(x + rows, w)))
        builder = Builder()
        x, w = builder.input("x", (8, 8)), builder.parameter("w", (8, 8))
        self.stays(builder.build(ops.linear(x, w, None, w)))

    def test_not_an_input(self):
        builder = Builder()
        self.stays(builder.build(ops.linear(builder.input("x", (4, 8)), builder.input("w", (8, 8)))))
