"""Matrix products and what follows them."""

import pytest

from jitinfer.graph import Builder, ops
from jitinfer.testing import PassTest


class TestFuseLinear(PassTest):
    passes = ("form_linear", "fuse_linear_bias", "fuse_linear_activation")
    tolerance = 1e-11

    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize(
        ("op", "attributes", "name"),
        [
            (None, {}, "none"),
            ("gelu", {}, "gelu"),
            ("gelu", {"approximate": "tanh"}, "gelu_tanh"),
            ("silu", {}, "silu"),
            ("relu", {}, "relu"),
            ("sigmoid", {}, "sigmoid"),
            ("leaky_relu", {"negative_slope": 0.2}, "leaky_relu"),
        ],
    )
    def test_epilogues(self, transposed, bias, op, attributes, name):
        builder = Builder()
        x = builder.input("x", (2, 5, 8))
        weight = builder.parameter("weight", (6, 8) if transposed else (8, 6))
        y = ops.matmul(x, weight, transpose_y=transposed)
        if bias:
            y = y + builder.parameter("bias", (6,))
        if op is not None:
            y = getattr(ops, op)(y, **attributes)
        node = self.becomes(builder.build(y), {"linear": 1}).nodes[0]
        assert (node.activation, node.transpose_weight, len(node.inputs)) == (name, transposed, 2 + bias)
        if name == "leaky_relu":
            assert node.negative_slope == 0.2

    def test_a_batched_product_stays(self):
        builder = Builder()
        x, y = builder.input("x", (2, 5, 8)), builder.input("y", (2, 8, 6))
        self.stays(builder.build(ops.matmul(x, y)))

    def test_a_transposed_left_side_stays(self):
        builder = Builder()
        x, y = builder.input("x", (8, 5)), builder.input("y", (8, 6))
        self.stays(builder.build(ops.matmul(x, y, transpose_x=True)))

    def test_a_bias_of_rows_stays_outside(self):
        builder = Builder()
        x, w, b = builder.input("x", (5, 8)), builder.parameter("w", (8, 6)), builder.parameter("b", (5, 1))
        self.becomes(builder.build(ops.matmul(x, w) + b), {"linear": 1, "add": 1})

    def test_only_the_first_bias_and_the_first_activation(self):
        builder = Builder()
        x, w = builder.input("x", (5, 8)), builder.parameter("w", (8, 6))
        a, b = builder.parameter("a", (6,)), builder.parameter("b", (6,))
        y = ops.relu(ops.silu(ops.matmul(x, w) + a + b))
        self.becomes(builder.build(y), {"linear": 1, "add": 1, "silu": 1, "relu": 1})

    def test_not_where_the_product_is_read_elsewhere(self):
        builder = Builder()
        x, w, b = builder.input("x", (5, 8)), builder.parameter("w", (8, 6)), builder.parameter("b", (6,))
        product = ops.matmul(x, w)
        self.becomes(builder.build(product + b, product), {"linear": 1, "add": 1})
