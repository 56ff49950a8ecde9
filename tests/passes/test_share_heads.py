"""Grouped-query attention from repeated keys and values."""

import pytest

from jitinfer.graph import Builder, ops
from jitinfer.passes import run_passes
from jitinfer.testing import PassTest


class TestShareHeads(PassTest):
    passes = ("simplify", "share_heads")
    tolerance = 1e-11

    def graph(self, *, heads=(2, 3), batch=2, tokens=5, heads_first=False, tiled=False, mask=False, only_keys=False):
        """`heads`: those of k and v, and how often each is read. tiled: the whole row of heads again and again."""
        builder = Builder()
        few, times = heads
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
        return builder.build(ops.attention(q, repeated(k), values, bias, scale=0.5))

    @pytest.mark.parametrize("heads_first", [False, True])
    @pytest.mark.parametrize("heads", [(2, 3), (1, 4), (4, 2)])
    @pytest.mark.parametrize(("batch", "tokens"), [(2, 5), (1, 1), (1, 6), (3, 3)])
    @pytest.mark.parametrize("mask", [False, True])
    def test_it_fires(self, heads_first, heads, batch, tokens, mask):
        graph = self.graph(heads=heads, batch=batch, tokens=tokens, heads_first=heads_first, mask=mask)
        after, _ = run_passes(graph, [*self.passes, "simplify"], check=True)
        assert set(after.counts()) == {"attention"}
        assert after.nodes[0].input_type(1).shape == (batch, tokens, heads[0], 8)
        self.means_the_same(after, graph)

    @pytest.mark.parametrize("heads_first", [False, True])
    def test_heads_that_are_tiled_stay(self, heads_first):
        self.stays_attention(self.graph(tiled=True, heads_first=heads_first))

    def test_repeated_keys_alone_stay(self):
        self.stays_attention(self.graph(only_keys=True))

    def stays_attention(self, graph):
        after, report = run_passes(graph, self.passes, check=True)
        assert report.steps[-1].changes == 0
        assert "broadcast_to" in after.counts()
