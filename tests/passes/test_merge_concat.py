"""Joins of parts of the same tensors, as one join."""

import pytest

from jitinfer.graph import Builder, ops
from jitinfer.testing import PassTest


def part(x, start, stop, axis=2, step=1):
    starts, stops, steps = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    starts[axis], stops[axis], steps[axis] = start, stop, step
    return ops.slice(x, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


class TestMergeConcat(PassTest):
    passes = ("merge_concat", "eliminate_dead_nodes")

    def streams(self, count=2):
        builder = Builder()
        return builder, [builder.input(f"stream_{i}", (2, 3 + i, 12)) for i in range(count)]

    @pytest.mark.parametrize("bounds", [[(0, 4), (4, 8), (8, 12)], [(0, 6), (6, 12)], [(2, 12), (0, 4)]])
    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_it_fires(self, bounds, count):
        builder, streams = self.streams(count)
        joined = [ops.concat(*(part(each, *bound) for each in streams), axis=1) for bound in bounds]
        self.becomes(builder.build(*joined), {"concat": 1, "slice": len(bounds)})

    def test_along_the_last_axis(self):
        builder = Builder()
        x, y = builder.input("x", (6, 4)), builder.input("y", (6, 5))
        joined = [ops.concat(part(x, i, i + 3, 0), part(y, i, i + 3, 0), axis=-1) for i in (0, 3)]
        self.becomes(builder.build(*joined), {"concat": 1, "slice": 2})

    def test_not_where_more_would_be_copied(self):
        builder, streams = self.streams()
        self.stays(builder.build(*(ops.concat(*(part(x, i, i + 2) for x in streams), axis=1) for i in (0, 2))))

    def test_not_one_alone(self):
        builder, streams = self.streams()
        self.stays(builder.build(ops.concat(*(part(x, 0, 12, step=2) for x in streams), axis=1)))

    def test_not_of_parts_that_differ(self):
        builder, (x, y) = self.streams()
        joined = [ops.concat(part(x, a, a + 6), part(y, b, b + 6), axis=1) for a, b in ((0, 6), (6, 0))]
        self.stays(builder.build(*joined))

    def test_not_of_parts_along_the_join(self):
        builder = Builder()
        x, y = builder.input("x", (6, 4)), builder.input("y", (6, 4))
        self.stays(builder.build(*(ops.concat(part(x, i, i + 3, 0), part(y, i, i + 3, 0), axis=0) for i in (0, 3))))

    def test_not_where_one_is_whole(self):
        builder = Builder()
        x, y = builder.input("x", (2, 3, 12)), builder.input("y", (2, 3, 6))
        self.stays(builder.build(*(ops.concat(part(x, i, i + 6), y, axis=1) for i in (0, 6))))
