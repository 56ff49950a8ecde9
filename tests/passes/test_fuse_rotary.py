"""Rotary embeddings in the forms of LLaMA, GPT-NeoX and complex numbers."""

import pytest

from jitinfer.graph import Builder, ops
from jitinfer.testing import PassTest


def part(x, start, stop):
    starts, stops = (*[0] * (len(x.shape) - 1), start), (*x.shape[:-1], stop)
    return ops.slice(x, starts=starts, stops=stops, steps=(1,) * len(x.shape))


class TestFuseRotaryHalf(PassTest):
    passes = ("fuse_rotary_half",)

    def graph(self, *, cut=4, swapped=False, angles=(1, 5, 1, 8), shared=False, sign=-1.0):
        builder = Builder()
        x = builder.input("x", (2, 5, 3, 8))
        cos, sin = builder.parameter("cos", angles), builder.parameter("sin", angles)
        halves = [part(x, cut, 8) * sign, part(x, 0, cut)]
        turned = ops.concat(*(halves[::-1] if swapped else halves), axis=3)
        return builder.build(x * cos + turned * sin, *([turned] if shared else []))

    @pytest.mark.parametrize("angles", [(1, 5, 1, 8), (5, 1, 8), (8,), (2, 5, 3, 8)])
    def test_it_fires(self, angles):
        after = self.becomes(self.graph(angles=angles), {"rotary": 1})
        assert after.nodes[-1].style == "half"

    def test_it_fires_on_a_negation(self):
        builder = Builder()
        x, cos, sin = (builder.input(name, (2, 5, 8)) for name in ("x", "cos", "sin"))
        turned = ops.concat(ops.negative(part(x, 4, 8)), part(x, 0, 4), axis=2)
        self.becomes(builder.build(turned * sin + cos * x), {"rotary": 1})

    @pytest.mark.parametrize(
        "changes", [{"cut": 3}, {"swapped": True}, {"shared": True}, {"sign": 1.0}, {"angles": (3, 2, 5, 3, 8)}]
    )
    def test_it_stays(self, changes):
        self.stays(self.graph(**changes))


class TestFuseRotaryHalves(PassTest):
    passes = ("fuse_rotary_halves",)

    def graph(self, *, angles=(1, 5, 1, 4), crossed=False, minus=False):
        builder = Builder()
        x = builder.input("x", (2, 5, 3, 8))
        cos, sin = builder.parameter("cos", angles), builder.parameter("sin", angles)
        a, b = part(x, 0, 4), part(x, 4, 8)
        c, d = (b, a) if crossed else (a, b)
        second = d * cos - c * sin if minus else d * cos + c * sin
        return builder.build(ops.concat(a * cos - b * sin, second, axis=3))

    @pytest.mark.parametrize("angles", [(1, 5, 1, 4), (4,), (2, 5, 3, 4)])
    def test_it_fires(self, angles):
        self.becomes(self.graph(angles=angles), {"concat": 2, "rotary": 1})

    @pytest.mark.parametrize("changes", [{"crossed": True}, {"minus": True}, {"angles": (1, 5, 1, 1)}])
    def test_it_stays(self, changes):
        self.stays(self.graph(**changes))


class TestFuseRotaryPairs(PassTest):
    passes = ("fuse_rotary_pairs",)

    def graph(self, *, angles=(1, 5, 1, 4), crossed=False, first=0):
        builder = Builder()
        x = builder.input("x", (2, 5, 3, 4, 2))
        cos, sin = builder.parameter("cos", angles), builder.parameter("sin", angles)
        a = ops.reshape(part(x, first, first + 1), shape=x.shape[:-1])
        b = ops.reshape(part(x, 1 - first, 2 - first), shape=x.shape[:-1])
        c, d = (b, a) if crossed else (a, b)
        parts = a * cos - b * sin, c * sin + d * cos
        return builder.build(ops.concat(*(ops.reshape(each, shape=(*x.shape[:-1], 1)) for each in parts), axis=4))

    @pytest.mark.parametrize("angles", [(1, 5, 1, 4), (4,), (2, 5, 3, 4)])
    def test_it_fires(self, angles):
        after = self.becomes(self.graph(angles=angles), {"reshape": 6, "concat": 2, "rotary": 1})
        assert [node.style for node in after.nodes if node.op.name == "rotary"] == ["interleaved"]

    @pytest.mark.parametrize("changes", [{"crossed": True}, {"first": 1}, {"angles": (1, 5, 1, 1)}])
    def test_it_stays(self, changes):
        self.stays(self.graph(**changes))


class TestFuseRotaryPartial(PassTest):
    passes = ("fuse_rotary_partial",)

    def graph(self, *, first=(0, 4), rest=(4, 8), axis=3, swapped=False, of_another=False):
        builder = Builder()
        x, y = builder.input("x", (2, 5, 3, 8)), builder.input("y", (2, 5, 3, 8))
        cos, sin = (builder.parameter(name, (5, 1, first[1] - first[0])) for name in ("cos", "sin"))
        turned = ops.rotary(part(x, *first), cos, sin, style="interleaved")
        parts = [turned, part(y if of_another else x, *rest)]
        return builder.build(ops.concat(*(parts[::-1] if swapped else parts), axis=axis))

    @pytest.mark.parametrize("width", [2, 4, 6])
    def test_it_fires(self, width):
        after = self.becomes(self.graph(first=(0, width), rest=(width, 8)), {"rotary": 1})
        assert (after.nodes[0].rotary_dim, after.nodes[0].style) == (width, "interleaved")

    @pytest.mark.parametrize(
        "changes",
        [{"first": (2, 6)}, {"rest": (5, 8)}, {"rest": (0, 4)}, {"axis": 2}, {"swapped": True}, {"of_another": True}],
    )
    def test_it_stays(self, changes):
        self.stays(self.graph(**changes))
