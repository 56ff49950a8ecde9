"""Matrix products and what follows them."""

from jitinfer.graph import Builder, Origin, ops
from jitinfer.passes import run_passes
from jitinfer.testing import PassTest, fires, must_not_fire

ACTIVATIONS = [
    (None, {}, "none"),
    ("gelu", {}, "gelu"),
    ("gelu", {"approximate": "tanh"}, "gelu_tanh"),
    ("gelu", {"approximate": "sigmoid"}, "gelu_sigmoid"),
    ("silu", {}, "silu"),
    ("relu", {}, "relu"),
    ("sigmoid", {}, "sigmoid"),
    ("leaky_relu", {"negative_slope": 0.2}, "leaky_relu"),
]


class TestFuseLinear(PassTest):
    passes = ("form_linear", "fuse_linear_bias", "fuse_linear_activation")
    tolerance = 1e-11

    @fires({"linear": 1}, transposed=[False, True], bias=[False, True], activation=ACTIVATIONS)
    def test_epilogues(self, builder, transposed, bias, activation):
        op, attributes, name = activation
        x = builder.input("x", (2, 5, 8))
        weight = builder.parameter("weight", (6, 8) if transposed else (8, 6))
        y = ops.matmul(x, weight, transpose_y=transposed)
        if bias:
            y = y + builder.parameter("bias", (6,))
        if op is not None:
            y = getattr(ops, op)(y, **attributes)
        node = (yield y).nodes[0]
        assert (node.activation, node.transpose_weight, len(node.inputs)) == (name, transposed, 2 + bias)
        if name == "leaky_relu":
            assert node.negative_slope == 0.2

    @must_not_fire()
    def test_a_batched_product_stays(self, builder):
        return ops.matmul(builder.input("x", (2, 5, 8)), builder.input("y", (2, 8, 6)))

    @must_not_fire()
    def test_a_transposed_left_side_stays(self, builder):
        return ops.matmul(builder.input("x", (8, 5)), builder.input("y", (8, 6)), transpose_x=True)

    @fires({"linear": 1, "add": 1})
    def test_a_bias_of_rows_stays_outside(self, builder):
        product = ops.matmul(builder.input("x", (5, 8)), builder.parameter("w", (8, 6)))
        return product + builder.parameter("b", (5, 1))

    @fires({"linear": 1, "add": 1, "silu": 1, "relu": 1})
    def test_only_the_first_bias_and_the_first_activation(self, builder):
        product = ops.matmul(builder.input("x", (5, 8)), builder.parameter("w", (8, 6)))
        return ops.relu(ops.silu(product + builder.parameter("a", (6,)) + builder.parameter("b", (6,))))

    @fires({"linear": 1, "add": 1})
    def test_not_where_the_product_is_read_elsewhere(self, builder):
        product = ops.matmul(builder.input("x", (5, 8)), builder.parameter("w", (8, 6)))
        return product + builder.parameter("b", (6,)), product


class TestFuseLinearGateAndResidual(PassTest):
    passes = ("form_linear", "fuse_linear_bias", "fuse_linear_activation", "fuse_linear_gate", "fuse_linear_residual")
    tolerance = 1e-11

    def product(self, builder, activation=None, bias=True):
        y = ops.matmul(builder.input("x", (2, 5, 8)), builder.parameter("weight", (8, 6)))
        y = y + builder.parameter("bias", (6,)) if bias else y
        return getattr(ops, activation)(y) if activation else y

    @fires(
        {"linear": 1},
        bias=[False, True],
        activation=[None, "silu"],
        gate=[None, (2, 1, 6), (6,), (2, 5, 6), ()],
        residual=[None, (2, 5, 6), (5, 6)],
    )
    def test_gate_and_residual(self, builder, bias, activation, gate, residual):
        y = self.product(builder, activation, bias)
        y = builder.input("gate", gate) * y if gate is not None else y
        y = y + builder.input("residual", residual) if residual else y
        node = (yield y).nodes[0]
        assert (node.operand("gate") is None, node.operand("residual") is None) == (gate is None, residual is None)

    @fires({"linear": 1, "multiply": 1})
    def test_a_gate_after_the_residual_stays_outside(self, builder):
        return (self.product(builder) + builder.input("residual", (2, 5, 6))) * builder.input("gate", (2, 5, 6))

    @fires(lambda op: {"linear": 1, op: 1}, op=["add", "multiply"])
    def test_what_makes_the_product_larger_stays_outside(self, builder, op):
        return getattr(ops, op)(self.product(builder), builder.input("other", (3, 2, 5, 6)))

    @fires({"linear": 2})
    def test_one_of_two_products_takes_the_other_as_its_residual(self, builder):
        return self.product(builder) + ops.matmul(builder.input("y", (2, 5, 8)), builder.parameter("w", (8, 6)))

    @fires({"linear": 1, "add": 1})
    def test_not_where_the_product_is_read_elsewhere(self, builder):
        y = self.product(builder)
        return y + builder.input("residual", (2, 5, 6)), y

    @fires({"linear": 1, "add": 1})
    def test_a_product_is_not_its_own_residual(self, builder):
        y = self.product(builder)
        return y + y


def test_a_fused_product_comes_from_where_the_product_does():
    """Not from where its residual was added, which is another layer."""
    builder = Builder()
    product, around = Origin("mlp.py:7", "/Block_0/Linear_0"), Origin("block.py:9", "/Block_0")
    x = builder.input("x", (4, 8))
    builder.origin = product
    y = ops.matmul(x, builder.parameter("w", (8, 8)))
    builder.origin = around
    graph = builder.build(x + ops.gelu(y + builder.parameter("b", (8,))))
    after, _ = run_passes(graph, ["form_linear", "fuse_linear_bias", "fuse_linear_activation", "fuse_linear_residual"])
    assert [(node.op.name, node.origin) for node in after.nodes] == [("linear", product)]


def test_a_product_of_no_origin_takes_that_of_what_follows_it():
    builder = Builder()
    y = ops.matmul(builder.input("x", (4, 8)), builder.parameter("w", (8, 8)))
    builder.origin = Origin("block.py:9")
    graph = builder.build(y + builder.parameter("b", (8,)))
    after, _ = run_passes(graph, ["form_linear", "fuse_linear_bias"])
    assert [node.origin for node in after.nodes] == [Origin("block.py:9")]
