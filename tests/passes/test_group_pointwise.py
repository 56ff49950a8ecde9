"""Pointwise ops and reductions of rows as groups, each of them one node."""

import numpy
import pytest

from jitinfer.graph import Builder, evaluate, ops, parse
from jitinfer.passes import run_passes
from jitinfer.passes.group_pointwise import ROW
from jitinfer.testing import PassTest


def bodies(graph):
    return [node.body for node in graph.nodes if node.op.name == "group"]


class TestGroupPointwise(PassTest):
    passes = ("group_pointwise",)

    def test_a_chain(self):
        builder = Builder()
        x, y = builder.input("x", (3, 4)), builder.input("y", (4,))
        after = self.becomes(builder.build(ops.tanh(ops.silu(x + y) * 2.0)), {"group": 1})
        (body,) = bodies(after)
        assert dict(body.counts()) == {"add": 1, "silu": 1, "constant": 1, "multiply": 1, "tanh": 1}
        assert [value.name for value in after.nodes[0].inputs] == ["x", "y"]

    def test_what_others_read_is_a_result_too(self):
        builder = Builder()
        x, w = builder.input("x", (3, 4)), builder.parameter("w", (4, 4))
        y = ops.silu(x)
        z = ops.tanh(y)
        after = self.becomes(builder.build(ops.linear(y, w), z), {"group": 1, "linear": 1})
        assert len(bodies(after)[0].outputs) == 2

    @pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "softmax", "log_softmax"])
    def test_rows(self, norm):
        builder = Builder()
        x, y = builder.input("x", (2, 3, 8)), builder.input("y", (2, 1, 8))
        total = x + y
        graph = builder.build(total, ops.silu(getattr(ops, norm)(total)))
        after = self.becomes(graph, {"group": 1})
        assert dict(bodies(after)[0].counts()) == {"add": 1, norm: 1, "silu": 1}

    @pytest.mark.parametrize("reduction", ["sum", "mean", "max", "min"])
    def test_one_element_a_row(self, reduction):
        builder = Builder()
        x = builder.input("x", (2, 3, 8))
        rows = getattr(ops, reduction)(ops.exp(x), axes=(2,), keepdims=True)
        after = self.becomes(builder.build(x / ops.abs(rows)), {"group": 1})
        assert dict(bodies(after)[0].counts()) == {"exp": 1, reduction: 1, "abs": 1, "divide": 1}

    def test_modulated_norms_and_sums_before_them(self):
        builder = Builder()
        x, place = builder.input("x", (2, 3, 8)), builder.parameter("place", (1, 3, 8))
        scale, shift = builder.input("scale", (2, 1, 8)), builder.input("shift", (2, 1, 8))
        total = x + place
        graph = builder.build(total, ops.adaptive_layer_norm(total, scale, shift, epsilon=1e-6))
        self.becomes(graph, {"group": 1})

    def test_operands_are_read_through_their_views(self):
        builder = Builder()
        x = builder.input("x", (4, 6))
        y = ops.silu(ops.transpose(x, permutation=(1, 0))) * ops.slice(x, starts=(0, 0), stops=(1, 4), steps=(1, 1))
        graph, _ = run_passes(builder.build(y), ["absorb_views"])
        after = self.becomes(graph, {"group": 1})
        assert [str(view) for view in after.nodes[0].views] == ["[6, 4; 1, 6; 0]", "[1, 4; 6, 1; 0]"]

    def test_results_are_written_through_stores(self):
        builder = Builder()
        x = builder.input("x", (4, 6))
        graph = builder.build(ops.transpose(ops.silu(ops.tanh(x)), permutation=(1, 0)))
        after, _ = run_passes(graph, ["group_pointwise", "absorb_stores"], check=True)
        assert dict(after.counts()) == {"group": 1}
        self.means_the_same(after, graph)

    def test_two_groups_that_would_wait_for_each_other(self):
        """a -> b and c -> d could be a group each, or all four; not a with d and b with c apart."""
        builder = Builder()
        x, w = builder.input("x", (4, 4)), builder.parameter("w", (4, 4))
        first = ops.silu(x)
        between = ops.linear(first, w)
        second = ops.tanh(between)
        after = self.becomes(builder.build(first * second), {"silu": 1, "linear": 1, "group": 1})
        assert dict(bodies(after)[0].counts()) == {"tanh": 1, "multiply": 1}

    def test_no_circle_by_way_of_another_group(self):
        builder = Builder()
        x, w = builder.input("x", (4, 4)), [builder.parameter(f"w{i}", (4, 4)) for i in range(2)]
        a, c = ops.silu(x), ops.tanh(x)
        b = ops.exp(ops.linear(a, w[0]))
        d = ops.abs(ops.linear(c, w[1]))
        graph = builder.build(a + d, c + b)
        after, _ = run_passes(graph, ["group_pointwise"], check=True)
        self.means_the_same(after, graph)
        assert after.counts()["linear"] == 2

    def test_not_one_alone(self):
        builder = Builder()
        self.stays(builder.build(ops.silu(builder.input("x", (3, 4)))))

    def test_not_across_products(self):
        builder = Builder()
        x, w = builder.input("x", (4, 4)), builder.parameter("w", (4, 4))
        self.stays(builder.build(ops.silu(ops.linear(ops.tanh(x), w))))

    def test_not_of_different_shapes(self):
        """A small operand, computed again for each row of the large one, would be work done twice."""
        builder = Builder()
        x, y = builder.input("x", (3, 4)), builder.input("y", (1, 4))
        self.stays(builder.build(x * ops.exp(y)))

    @pytest.mark.parametrize(("axes", "keepdims"), [((0,), True), ((1,), False), ((0, 1), True)])
    def test_not_over_other_axes(self, axes, keepdims):
        builder = Builder()
        x = builder.input("x", (4, 4))
        self.stays(builder.build(ops.sum(ops.exp(x), axes=axes, keepdims=keepdims)))

    def test_not_through_views(self):
        builder = Builder()
        x = builder.input("x", (4, 4))
        y = ops.silu(x)
        graph = builder.build(y + ops.transpose(y, permutation=(1, 0)))
        viewed, _ = run_passes(graph, ["absorb_views"])
        self.stays(viewed)

    def test_not_rows_that_no_kernel_keeps(self):
        builder = Builder()
        x = builder.input("x", (1, 2 * ROW))
        self.stays(builder.build(ops.softmax(ops.silu(x))))

    def test_not_pairs(self):
        builder = Builder()
        x, cos, sin = (builder.input(name, (4, 8)) for name in ("x", "cos", "sin"))
        self.stays(builder.build(ops.rotary(ops.silu(x), cos, sin)))


def test_a_group_prints_and_parses_and_hashes():
    builder = Builder()
    x = builder.input("x", (2, 8), "bfloat16")
    graph, _ = run_passes(builder.build(ops.softmax(ops.silu(x))), ["group_pointwise"])
    assert parse(str(graph)).hash == graph.hash
    assert graph.flops > 0
    (result,) = evaluate(graph, [numpy.ones((2, 8)).astype("float32").astype("bfloat16")])
    assert (result.astype("float32") == 0.125).all()
