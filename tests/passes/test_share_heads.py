"""Grouped-query attention from repeated keys and values."""

from jitinfer.graph import ops
from jitinfer.testing import PassTest, fires, must_not_fire


class TestShareHeads(PassTest):
    before = ("simplify",)
    passes = ("share_heads",)
    after = ("simplify",)
    tolerance = 1e-11

    def program(
        self, builder, *, heads=(2, 3), rows=(2, 5), heads_first=False, tiled=False, mask=False, only_keys=False
    ):
        """`heads`: those of k and v, and how often each is read. tiled: the whole row of heads again and again."""
        (few, times), (batch, tokens) = heads, rows
        q = builder.input("q", (batch, tokens, few * times, 8))
        k, v = (builder.input(name, (batch, tokens, few, 8)) for name in "kv")

        def repeated(x):
            if heads_first:
                x = ops.transpose(x, permutation=(0, 2, 1, 3))
            outer, inner = ((batch,), (tokens, 8)) if heads_first else ((batch, tokens), (8,))
            one, all_ = ((1, few), (times, few)) if tiled else ((few, 1), (few, times))
            x = ops.broadcast_to(ops.reshape(x, shape=(*outer, *one, *inner)), shape=(*outer, *all_, *inner))
            x = ops.reshape(x, shape=(*outer, few * times, *inner))
            return ops.transpose(x, permutation=(0, 2, 1, 3)) if heads_first else x

        values = builder.input("values", (batch, tokens, few * times, 8)) if only_keys else repeated(v)
        bias = builder.input("mask", (tokens, tokens)) if mask else None
        return ops.attention(q, repeated(k), values, bias, scale=0.5)

    @fires(
        {"attention": 1},
        heads_first=[False, True],
        heads=[(2, 3), (1, 4), (4, 2)],
        rows=[(2, 5), (1, 1), (1, 6), (3, 3)],
        mask=[False, True],
    )
    def test_it_fires(self, builder, heads_first, heads, rows, mask):
        after = yield self.program(builder, heads=heads, rows=rows, heads_first=heads_first, mask=mask)
        assert after.nodes[0].input_type(1).shape == (*rows, heads[0], 8)

    @must_not_fire(heads_first=[False, True])
    def test_heads_that_are_tiled_stay(self, builder, heads_first):
        after = yield self.program(builder, tiled=True, heads_first=heads_first)
        assert "broadcast_to" in after.counts()

    @must_not_fire()
    def test_repeated_keys_alone_stay(self, builder):
        after = yield self.program(builder, only_keys=True)
        assert "broadcast_to" in after.counts()
