"""Attention from its written-out form, in every spelling, and what only looks like it."""

import pytest

from jitinfer.graph import Builder, ops
from jitinfer.testing import PassTest


class TestFuseAttention(PassTest):
    passes = ("fuse_attention", "simplify", "eliminate_dead_nodes")
    tolerance = 1e-11

    def operands(self, builder, lead=(2, 3), seq=5, other=7, dim=4):
        return (
            builder.input("q", (*lead, seq, dim)),
            builder.input("k", (*lead, other, dim)),
            builder.input("v", (*lead, other, dim + 2)),
        )

    @pytest.mark.parametrize("lead", [(2, 3), (6,)])
    @pytest.mark.parametrize("where", ["q", "k", "scores", "divide", "q and k", "none"])
    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize("masked", [False, True])
    def test_every_spelling(self, lead, where, transposed, masked):
        builder = Builder()
        q, k, v = self.operands(builder, lead)
        q = q * 0.3 if "q" in where.split() else q
        if transposed:
            last = len(lead)
            k = ops.transpose(k, permutation=(*range(last), last + 1, last))
        k = k * 0.7 if "k" in where.split() else k
        scores = ops.matmul(q, k, transpose_y=not transposed)
        scores = scores * 0.5 if where == "scores" else scores / 2.0 if where == "divide" else scores
        if masked:
            scores = scores + builder.input("mask", (lead[0], *([1] * (len(lead) - 1)), 5, 7))
        graph = builder.build(ops.matmul(ops.softmax(scores, axis=-1), v))
        after = self.becomes(graph, self.expected(lead, masked))
        (node,) = (node for node in after.nodes if node.op.name == "attention")
        scale = {"q": 0.3, "k": 0.7, "q and k": 0.21, "none": 1.0}.get(where, 0.5)
        assert node.scale == pytest.approx(scale, rel=1e-6)

    @staticmethod
    def expected(lead, masked):
        if len(lead) == 1:
            return {"attention": 1, "reshape": 4 + masked}
        return {"attention": 1, "transpose": 4}

    def test_the_model_s_own_transposes_cancel(self):
        builder = Builder()
        heads = [ops.transpose(builder.input(name, (2, 5, 3, 4)), permutation=(0, 2, 1, 3)) for name in ("q", "k", "v")]
        product = ops.matmul(ops.softmax(ops.matmul(heads[0], heads[1], transpose_y=True) * 0.5), heads[2])
        y = ops.reshape(ops.transpose(product, permutation=(0, 2, 1, 3)), shape=(2, 5, 12))
        self.becomes(builder.build(y), {"attention": 1, "reshape": 1})

    @pytest.mark.parametrize("lead", [(2, 3), (1, 6), (6, 1)])
    def test_heads_taken_apart_for_the_mask(self, lead):
        """As CLIP's text encoder does it: batch and heads are one axis, but not while the mask is added."""
        builder = Builder()
        q, k, v = self.operands(builder, (6,))
        scores = ops.reshape(ops.matmul(q * 0.5, k, transpose_y=True), shape=(*lead, 5, 7))
        masked = ops.reshape(scores + builder.input("mask", (lead[0], 1, 5, 7)), shape=(6, 5, 7))
        expected = {"attention": 1, "reshape": 4} | ({} if lead[1] == 1 else {"transpose": 4})
        self.becomes(builder.build(ops.matmul(ops.softmax(masked, axis=-1), v)), expected)

    def test_not_where_queries_are_taken_apart(self):
        builder = Builder()
        q, k, v = self.operands(builder, (6,), seq=6)
        scores = ops.reshape(ops.matmul(q, k, transpose_y=True), shape=(6, 2, 3, 7))
        masked = ops.reshape(scores + builder.input("mask", (6, 2, 1, 7)), shape=(6, 6, 7))
        self.stays(builder.build(ops.matmul(ops.softmax(masked, axis=-1), v)))

    def test_not_over_another_axis(self):
        builder = Builder()
        q, k, v = self.operands(builder)
        self.stays(builder.build(ops.matmul(ops.softmax(ops.matmul(q, k, transpose_y=True), axis=2), v)))

    def test_not_where_the_weights_are_returned(self):
        builder = Builder()
        q, k, v = self.operands(builder)
        weights = ops.softmax(ops.matmul(q, k, transpose_y=True))
        self.stays(builder.build(ops.matmul(weights, v), weights))

    def test_not_where_heads_are_broadcast(self):
        builder = Builder()
        q, k = builder.input("q", (2, 3, 5, 4)), builder.input("k", (2, 1, 7, 4))
        v = builder.input("v", (2, 1, 7, 4))
        self.stays(builder.build(ops.matmul(ops.softmax(ops.matmul(q, k, transpose_y=True)), v)))

    def test_not_where_the_mask_makes_the_scores_wider(self):
        builder = Builder()
        q, k, v = (builder.input(name, (1, 3, 5, 4)) for name in "qkv")
        mask = builder.input("mask", (2, 1, 5, 5))
        self.stays(builder.build(ops.matmul(ops.softmax(ops.matmul(q, k, transpose_y=True) + mask), v)))
