"""Images and weights of convolutions with their channels last in memory."""

import pytest

from jitinfer.graph import Builder, View, ops
from jitinfer.passes import default, run_passes
from jitinfer.testing import PassTest

ONE = ((1, 1), (1, 1))


def convolved(builder, x, name, outputs, window=3, **attributes):
    weight = builder.parameter(f"{name}_w", (outputs, x.shape[1] // attributes.get("groups", 1), window, window))
    padding = ONE if window == 3 else ((0, 0), (0, 0))
    return ops.conv2d(x, weight, builder.parameter(f"{name}_b", (outputs,)), padding=padding, **attributes)


def last(shape):
    batch, channels, height, width = shape
    return View.of((batch, height, width, channels)).transpose((0, 3, 1, 2))


class TestChannelsLast(PassTest):
    passes = (*default(), "channels_last")
    tolerance = 1e-11

    def turned(self, graph):
        after, _ = run_passes(graph, self.passes, check=True)
        self.means_the_same(after, graph)
        return after

    def test_between_two(self):
        builder = Builder()
        x = builder.input("x", (2, 4, 6, 5))
        first = convolved(builder, x, "a", 8)
        after = self.turned(builder.build(convolved(builder, first, "b", 3)))
        one, two = after.nodes
        assert one.output.shape == (2, 6, 5, 8)
        assert one.store(0) == two.view(0) == last((2, 8, 6, 5))
        assert (one.view(0), two.store(0)) == (None, None)  # what is given, and what is given back, lies as ever
        assert one.inputs[1].shape == (8, 3, 3, 4)
        assert one.view(1) == last((8, 4, 3, 3))

    @pytest.mark.parametrize(
        "between",
        [
            ops.tanh,
            lambda x: ops.tanh(x) * ops.exp(x),
            lambda x: ops.group_norm(x, groups=2),
            lambda x: ops.max_pool2d(x, window=(2, 2), strides=(2, 2)),
            lambda x: ops.resize_nearest(x, size=(12, 10)),
            lambda x: ops.pad(x, low=(0, 0, 1, 2), high=(0, 0, 0, 1), mode="edge"),
            lambda x: ops.concat(x, ops.tanh(x), axis=1),
        ],
    )
    def test_what_stands_between_them(self, between):
        builder = Builder()
        x = builder.input("x", (2, 4, 6, 5))
        graph = builder.build(convolved(builder, between(convolved(builder, x, "a", 8)), "b", 4))
        after = self.turned(graph)
        moved = [value for node in after.nodes[:-1] for value in node.outputs]
        assert all(value.shape[3] % 8 == 0 for value in moved)

    def test_tokens_need_no_copy(self):
        builder = Builder()
        x = builder.input("x", (2, 4, 6, 5))
        image = convolved(builder, x, "a", 8)
        tokens = ops.transpose(ops.reshape(ops.group_norm(image, groups=2), shape=(2, 8, 30)), permutation=(0, 2, 1))
        tokens = ops.tanh(ops.matmul(tokens, builder.parameter("m", (8, 8))))
        back = ops.reshape(ops.transpose(tokens, permutation=(0, 2, 1)), shape=(2, 8, 6, 5))
        graph = builder.build(convolved(builder, back + image, "b", 3))
        after = self.turned(graph)
        assert not {"transpose", "reshape"} & after.counts().keys()
        product = next(node for node in after.nodes if node.op.name == "linear")
        assert product.view(0).contiguous()

    def test_both_operands_of_a_sum(self):
        builder = Builder()
        x = builder.input("x", (2, 4, 6, 5))
        image = convolved(builder, x, "a", 8)
        graph = builder.build(convolved(builder, convolved(builder, ops.tanh(image), "b", 8) + image, "c", 3))
        after = self.turned(graph)
        sums = after.nodes[2]
        assert sums.view(sums.op.position("residual")) == last((2, 8, 6, 5))

    def test_a_weight_that_others_read_stays(self):
        builder = Builder()
        x, weight = builder.input("x", (2, 4, 6, 5)), builder.parameter("w", (8, 4, 3, 3))
        graph = builder.build(ops.conv2d(x, weight), builder.input("z", (8, 4, 3, 3)) * weight)
        assert self.turned(graph).nodes[0].view(1) is None

    def test_weights_of_transposed_ones(self):
        builder = Builder()
        x, weight = builder.input("x", (2, 4, 6, 5)), builder.parameter("w", (4, 8, 3, 3))
        graph = builder.build(ops.conv2d_transpose(x, weight, strides=(2, 2)))
        after = self.turned(graph)
        assert after.nodes[0].inputs[1].shape == (8, 3, 3, 4)

    def test_what_an_op_without_strides_reads_or_writes_stays(self):
        builder = Builder()
        x = builder.input("x", (2, 4, 6, 5))
        graph = builder.build(convolved(builder, ops.cumsum(convolved(builder, x, "a", 8), axis=1), "b", 4))
        assert not any(any(node.stores) for node in self.turned(graph).nodes)

    def test_images_without_convolutions_stay(self):
        builder = Builder()
        x = builder.input("x", (2, 4, 6, 5))
        graph = builder.build(ops.group_norm(ops.tanh(x), groups=2))
        assert all(node.plain for node in self.turned(graph).nodes)

    def test_channels_alone_stay(self):
        builder = Builder()
        x = builder.input("x", (2, 4, 3, 3))
        pooled = ops.conv2d(x, builder.parameter("w", (8, 4, 3, 3)))
        graph = builder.build(convolved(builder, ops.tanh(pooled), "b", 4, window=1))
        assert not any(any(node.stores) for node in self.turned(graph).nodes)
