"""What depends on weights alone: merged, and computed once."""

import pytest

from jitinfer.graph import Builder, ops, parse
from jitinfer.testing import PassTest


def projections(*, activations=("none", "none"), biases=(True, True), first_weight_is_given=False):
    builder = Builder()
    x = builder.input("x", (2, 5, 8))
    results = []
    for i, (activation, biased, width) in enumerate(zip(activations, biases, (6, 4), strict=True)):
        given = builder.input if first_weight_is_given and i == 0 else builder.parameter
        weight = given(f"w{i}", (8, width))
        bias = builder.parameter(f"b{i}", (width,)) if biased else None
        results.append(ops.linear(x, weight, bias, activation=activation))
    return builder.build(*results)


class TestMerging(PassTest):
    passes = ("merge_linear",)

    def test_projections_of_one_operand(self):
        after = self.becomes(projections(), {"concat": 2, "linear": 1, "slice": 2})
        assert after.counts()["linear"] == 1

    def test_without_biases(self):
        self.becomes(projections(biases=(False, False)), {"concat": 1, "linear": 1, "slice": 2})

    def test_transposed_weights(self):
        builder = Builder()
        x = builder.input("x", (3, 8))
        parts = [ops.linear(x, builder.parameter(f"w{i}", (4 + i, 8)), transpose_weight=True) for i in range(3)]
        self.becomes(builder.build(*parts), {"concat": 1, "linear": 1, "slice": 3})

    @pytest.mark.parametrize(
        "different",
        [{"activations": ("none", "silu")}, {"biases": (True, False)}, {"first_weight_is_given": True}],
        ids=lambda each: next(iter(each)),
    )
    def test_what_differs_stays_apart(self, different):
        self.stays(projections(**different))

    def test_with_a_residual_stays_apart(self):
        builder = Builder()
        x = builder.input("x", (3, 8))
        weights = [builder.parameter(f"w{i}", (8, 8)) for i in range(2)]
        self.stays(builder.build(ops.linear(x, weights[0], None, x), ops.linear(x, weights[1], None, x)))

    def test_different_operands_stay_apart(self):
        builder = Builder()
        x, y = builder.input("x", (3, 8)), builder.input("y", (3, 8))
        self.stays(
            builder.build(ops.linear(x, builder.parameter("v", (8, 4))), ops.linear(y, builder.parameter("w", (8, 4))))
        )


class TestPrologue(PassTest):
    passes = ("weight_prologue", "eliminate_dead_nodes")

    def test_what_depends_on_weights_alone_moves(self):
        builder = Builder()
        x, w = builder.input("x", (3, 4)), builder.parameter("w", (4,))
        unused = builder.parameter("unused", (2,))
        graph = builder.build(x * ops.exp(w * 2.0) + w)
        after = self.becomes(graph, {"multiply": 1, "add": 1})
        assert after.prologue.counts() == {"constant": 1, "multiply": 1, "exp": 1}
        assert [value.type for value in after.weights] == [w.type, unused.type]
        again = parse(str(after))
        assert again.hash == after.hash
        self.stays(after)

    def test_a_second_time_adds_to_the_first(self):
        builder = Builder()
        x, w = builder.input("x", (3, 4)), builder.parameter("w", (4,))
        y = x * ops.exp(w)
        first = self.becomes(builder.build(y), {"multiply": 1})
        more = parse(
            str(first)
            .replace("multiply(%x, %exp_0)", "multiply(%x, %exp_1)")
            .replace("  %multiply_0", "  %exp_1: float32[4] = exp(%exp_0)\n  %multiply_0", 1)
        )
        assert more.counts() == {"exp": 1, "multiply": 1}
        after = self.becomes(more, {"multiply": 1})
        assert after.prologue.counts() == {"exp": 2}

    def test_weights_as_results(self):
        builder = Builder()
        x, w = builder.input("x", (3,)), builder.parameter("w", (4,))
        after = self.becomes(builder.build(ops.exp(w), w, x), {})
        assert len(after.parameters) == 2

    def test_nothing_to_move(self):
        builder = Builder()
        x, w = builder.input("x", (3, 4)), builder.parameter("w", (4,))
        self.stays(builder.build(x * ops.broadcast_to(w, shape=(3, 4))))

    def test_views_of_weights_move_with_what_reads_them(self):
        builder = Builder()
        x, w = builder.input("x", (3, 4)), builder.parameter("w", (4, 3))
        after = self.becomes(builder.build(x + ops.exp(ops.transpose(w, permutation=(1, 0)))), {"add": 1})
        assert after.prologue.counts() == {"transpose": 1, "exp": 1}
