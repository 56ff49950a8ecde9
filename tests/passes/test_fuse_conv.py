"""Convolutions and what follows them."""

import pytest

from jitinfer.graph import Builder, ops
from jitinfer.testing import PassTest


class TestFuseConv(PassTest):
    passes = (
        "fuse_conv_padding",
        "fuse_conv_scale",
        "fuse_conv_bias",
        "fuse_conv_residual",
        "fuse_conv_activation",
        "weight_prologue",
    )
    tolerance = 1e-11

    def convolution(self, *, bias=False, groups=1, activation="none"):
        builder = Builder()
        x, weight = builder.input("x", (2, 4, 7, 8)), builder.parameter("weight", (6, 4 // groups, 3, 3))
        given = builder.parameter("bias", (6,)) if bias else None
        return builder, ops.conv2d(
            x, weight, given, strides=(2, 1), padding=((1, 1), (0, 1)), groups=groups, activation=activation
        )

    @pytest.mark.parametrize("form", [(6, 1, 1), (1, 6, 1, 1)])
    @pytest.mark.parametrize("groups", [1, 2])
    @pytest.mark.parametrize("bias", [False, True])
    def test_batch_norm(self, form, groups, bias):
        builder, y = self.convolution(bias=bias, groups=groups)
        y = ops.relu(y * builder.parameter("scale", form) + builder.parameter("shift", form))
        after = self.becomes(builder.build(y), {"conv2d": 1})
        assert after.nodes[0].activation == "relu"
        assert len(after.nodes[0].inputs) == 3

    @pytest.mark.parametrize(
        ("op", "attributes", "name"),
        [
            ("gelu", {}, "gelu"),
            ("gelu", {"approximate": "tanh"}, "gelu_tanh"),
            ("silu", {}, "silu"),
            ("relu", {}, "relu"),
            ("sigmoid", {}, "sigmoid"),
        ],
    )
    @pytest.mark.parametrize("bias", [False, True])
    def test_activations(self, op, attributes, name, bias):
        builder, y = self.convolution(bias=bias)
        after = self.becomes(builder.build(getattr(ops, op)(y, **attributes)), {"conv2d": 1})
        assert after.nodes[0].activation == name

    def test_a_second_activation_stays(self):
        builder, y = self.convolution(activation="relu")
        self.stays(builder.build(ops.silu(y)))

    def test_what_comes_after_the_activation_stays(self):
        builder, y = self.convolution(activation="relu")
        self.stays(builder.build(y + builder.parameter("shift", (6, 1, 1))))

    @pytest.mark.parametrize("form", [(), (1,), (2, 6, 1, 1), (6, 1, 7), (1, 1, 1)])
    def test_what_is_not_per_channel_stays(self, form):
        builder, y = self.convolution()
        self.stays(builder.build(y * builder.input("scale", form)))

    @pytest.mark.parametrize("form", [(), (2, 6, 1, 1), (7,), (2, 6, 4, 7)])
    @pytest.mark.parametrize("activation", [False, True])
    @pytest.mark.parametrize("bias", [False, True])
    def test_residuals(self, form, activation, bias):
        builder, y = self.convolution(bias=bias)
        y = builder.input("residual", form) + y
        after = self.becomes(builder.build(ops.relu(y) if activation else y), {"conv2d": 1})
        assert after.nodes[0].operand("residual") is not None

    def test_a_sum_of_two(self):
        builder, y = self.convolution()
        other = ops.conv2d(builder.input("z", (2, 3, 4, 7)), builder.parameter("more", (6, 3, 1, 1)))
        self.becomes(builder.build(y + other), {"conv2d": 2})

    @pytest.mark.parametrize("form", [(3, 1, 1, 1, 1), (2, 6, 4, 7)])
    def test_what_is_no_residual_stays(self, form):
        """It makes the result larger, or depends on the convolution itself."""
        builder, y = self.convolution()
        self.stays(builder.build(y + (ops.tanh(y) if len(form) == 4 else builder.input("residual", form))))

    def test_a_second_residual_stays(self):
        builder, y = self.convolution()
        y = y + builder.input("one", (2, 6, 4, 7)) + builder.input("two", (2, 6, 4, 7))
        self.becomes(builder.build(y), {"conv2d": 1, "add": 1})

    def test_zeros_around_the_image(self):
        builder = Builder()
        x, weight = builder.input("x", (2, 4, 7, 8)), builder.parameter("weight", (6, 4, 3, 3))
        padded = ops.pad(x, low=(0, 0, 0, 2), high=(0, 0, 1, 1))
        graph = builder.build(ops.conv2d(padded, weight, padding=((1, 0), (0, 0))))
        after = self.becomes(graph, {"conv2d": 1})
        assert after.nodes[0].padding == ((1, 1), (2, 1))

    @pytest.mark.parametrize("attributes", [{"value": 1.0}, {"mode": "edge"}, {"low": (0, 1, 0, 0)}])
    def test_other_padding_stays(self, attributes):
        builder = Builder()
        x, weight = builder.input("x", (2, 4, 7, 8)), builder.parameter("weight", (6, 5, 3, 3))
        around = {"low": (0, 0, 1, 1), "high": (0, 1, 1, 1), **attributes}
        around["high"] = (0, 1 - around["low"][1], 1, 1)
        self.stays(builder.build(ops.conv2d(ops.pad(x, **around), weight)))

    def test_a_convolution_that_others_read_stays(self):
        builder, y = self.convolution()
        self.stays(builder.build(y, ops.relu(y)))
