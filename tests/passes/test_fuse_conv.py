"""Convolutions and what follows them."""

import pytest

from jitinfer.graph import Builder, ops
from jitinfer.testing import PassTest


class TestFuseConv(PassTest):
    passes = ("fuse_conv_scale", "fuse_conv_bias", "fuse_conv_activation", "weight_prologue")
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

    def test_a_convolution_that_others_read_stays(self):
        builder, y = self.convolution()
        self.stays(builder.build(y, ops.relu(y)))
