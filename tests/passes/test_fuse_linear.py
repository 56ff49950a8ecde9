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
            ("gelu", {"approximate": "sigmoid"}, "gelu_sigmoid"),
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


class TestFuseLinearGateAndResidual(PassTest):
    passes = ("form_linear", "fuse_linear_bias", "fuse_linear_activation", "fuse_linear_gate", "fuse_linear_residual")
    tolerance = 1e-11

    def product(self, activation=None, bias=True):
        builder = Builder()
        y = ops.matmul(builder.input("x", (2, 5, 8)), builder.parameter("weight", (8, 6)))
        y = y + builder.parameter("bias", (6,)) if bias else y
        return builder, getattr(ops, activation)(y) if activation else y

    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("activation", [None, "silu"])
    @pytest.mark.parametrize("gate", [None, (2, 1, 6), (6,), (2, 5, 6), ()])
    @pytest.mark.parametrize("residual", [None, (2, 5, 6), (5, 6)])
    def test_gate_and_residual(self, bias, activation, gate, residual):
        builder, y = self.product(activation, bias)
        y = builder.input("gate", gate) * y if gate is not None else y
        y = y + builder.input("residual", residual) if residual else y
        node = self.becomes(builder.build(y), {"linear": 1}).nodes[0]
        assert (node.operand("gate") is None, node.operand("residual") is None) == (gate is None, residual is None)

    def test_a_gate_after_the_residual_stays_outside(self):
        builder, y = self.product()
        y = (y + builder.input("residual", (2, 5, 6))) * builder.input("gate", (2, 5, 6))
        self.becomes(builder.build(y), {"linear": 1, "multiply": 1})

    def test_what_makes_the_product_larger_stays_outside(self):
        builder, y = self.product()
        self.becomes(builder.build(y + builder.input("residual", (3, 2, 5, 6))), {"linear": 1, "add": 1})
        builder, y = self.product()
        self.becomes(builder.build(y * builder.input("gate", (3, 2, 5, 6))), {"linear": 1, "multiply": 1})

    def test_one_of_two_products_takes_the_other_as_its_residual(self):
        builder, y = self.product()
        x, w = builder.input("y", (2, 5, 8)), builder.parameter("w", (8, 6))
        self.becomes(builder.build(y + ops.matmul(x, w)), {"linear": 2})

    def test_not_where_the_product_is_read_elsewhere(self):
        builder, y = self.product()
        self.becomes(builder.build(y + builder.input("residual", (2, 5, 6)), y), {"linear": 1, "add": 1})
        builder, y = self.product()
        self.becomes(builder.build(y + y), {"linear": 1, "add": 1})
