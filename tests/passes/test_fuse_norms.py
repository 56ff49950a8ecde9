"""Norms from their written-out forms, and what is fused with them: exact counts, and where nothing may happen."""

import pytest

from jitinfer.graph import Builder, ops
from jitinfer.testing import PassTest

SHAPES = [(2, 5, 8), (3, 16), (1, 1, 7, 24)]


class TestFormRmsNorm(PassTest):
    passes = ("form_rms_norm",)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("squared", ["product", "power"])
    @pytest.mark.parametrize("form", ["rsqrt", "reciprocal", "divide"])
    @pytest.mark.parametrize("scaled", [False, True])
    def test_every_form(self, shape, squared, form, scaled):
        builder = Builder()
        x = builder.input("x", shape)
        square = x * x if squared == "product" else x**2.0
        shifted = ops.mean(square, axes=(len(shape) - 1,), keepdims=True) + 1e-6
        y = {
            "rsqrt": lambda: ops.rsqrt(shifted) * x,
            "reciprocal": lambda: x * (1.0 / ops.sqrt(shifted)),
            "divide": lambda: x / ops.sqrt(shifted),
        }[form]()
        if scaled:
            y = builder.parameter("scale", shape[-1:]) * y
        after = self.becomes(builder.build(y), {"rms_norm": 1})
        assert after.nodes[0].epsilon == pytest.approx(1e-6, rel=1e-6)
        assert len(after.nodes[0].inputs) == 1 + scaled

    def test_not_over_another_axis(self):
        builder = Builder()
        x = builder.input("x", (2, 5, 8))
        self.stays(builder.build(x * ops.rsqrt(ops.mean(x * x, axes=(1,), keepdims=True) + 1e-6)))

    def test_not_of_two_tensors(self):
        builder = Builder()
        x, y = builder.input("x", (2, 8)), builder.input("y", (2, 8))
        self.stays(builder.build(x * ops.rsqrt(ops.mean(x * y, axes=(1,), keepdims=True) + 1e-6)))
        builder = Builder()
        x, y = builder.input("x", (2, 8)), builder.input("y", (2, 8))
        self.stays(builder.build(y * ops.rsqrt(ops.mean(x * x, axes=(1,), keepdims=True) + 1e-6)))

    def test_not_where_an_inner_value_is_read_elsewhere(self):
        builder = Builder()
        x = builder.input("x", (2, 8))
        mean = ops.mean(x * x, axes=(1,), keepdims=True)
        self.stays(builder.build(x * ops.rsqrt(mean + 1e-6), mean))

    def test_a_scale_that_is_no_vector_stays_outside(self):
        builder = Builder()
        x, scale = builder.input("x", (2, 8)), builder.input("scale", (2, 1))
        y = x * ops.rsqrt(ops.mean(x * x, axes=(1,), keepdims=True) + 1e-6) * scale
        self.becomes(builder.build(y), {"rms_norm": 1, "multiply": 1})

    def test_not_with_a_large_addend(self):
        builder = Builder()
        x = builder.input("x", (2, 8))
        self.stays(builder.build(x * ops.rsqrt(ops.mean(x * x, axes=(1,), keepdims=True) + 1.0)))


class TestFormLayerNorm(PassTest):
    passes = ("form_layer_norm", "fuse_norm_scale", "fuse_norm_bias")

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("form", ["rsqrt", "divide"])
    @pytest.mark.parametrize("affine", [0, 1, 2])
    def test_every_form(self, shape, form, affine):
        builder = Builder()
        x = builder.input("x", shape)
        last = (len(shape) - 1,)
        centred = x - ops.mean(x, axes=last, keepdims=True)
        shifted = ops.mean(centred * centred, axes=last, keepdims=True) + 1e-5
        y = centred * ops.rsqrt(shifted) if form == "rsqrt" else centred / ops.sqrt(shifted)
        if affine > 0:
            y = y * builder.parameter("scale", shape[-1:])
        if affine > 1:
            y = builder.parameter("bias", shape[-1:]) + y
        after = self.becomes(builder.build(y), {"layer_norm": 1})
        assert len(after.nodes[0].inputs) == 1 + affine

    def test_not_with_two_different_means(self):
        builder = Builder()
        x = builder.input("x", (4, 6))
        centred = x - ops.mean(x, axes=(0,), keepdims=True)
        self.stays(builder.build(centred * ops.rsqrt(ops.mean(centred * centred, axes=(1,), keepdims=True) + 1e-5)))

    def test_a_bias_without_a_scale_stays_outside(self):
        builder = Builder()
        x, bias = builder.input("x", (4, 6)), builder.parameter("bias", (6,))
        self.stays(builder.build(ops.layer_norm(x) + bias))


class TestAdaptiveLayerNorm(PassTest):
    passes = ("fuse_adaptive_layer_norm",)

    @pytest.mark.parametrize("affine", [False, True])
    @pytest.mark.parametrize("order", [0, 1, 2])
    @pytest.mark.parametrize("rows", [1, 5])
    def test_every_form(self, affine, order, rows):
        builder = Builder()
        x = builder.input("x", (2, 5, 8))
        scale, shift = builder.input("scale", (2, rows, 8)), builder.input("shift", (2, rows, 8))
        extra = (builder.parameter("w", (8,)), builder.parameter("b", (8,))) if affine else ()
        norm = ops.layer_norm(x, *extra, epsilon=1e-6)
        y = [
            lambda: norm * (1.0 + scale) + shift,
            lambda: shift + (scale + 1.0) * norm,
            lambda: (1.0 + scale) * norm + shift,
        ][order]()
        after = self.becomes(builder.build(y), {"adaptive_layer_norm": 1})
        assert after.nodes[0].epsilon == 1e-6
        assert after.nodes[0].inputs[1].name == "scale"

    @pytest.mark.parametrize("affine", [False, True])
    def test_a_scale_spread_after_the_one_was_added(self, affine):
        builder = Builder()
        x, scale, shift = builder.input("x", (2, 5, 8)), builder.input("a", (2, 8)), builder.input("b", (2, 1, 8))
        extra = (builder.parameter("w", (8,)), builder.parameter("c", (8,))) if affine else ()
        factor = ops.reshape(scale + 1.0, shape=(2, 1, 8))
        graph = builder.build(ops.layer_norm(x, *extra) * factor + shift)
        self.becomes(graph, {"reshape": 1, "adaptive_layer_norm": 1})

    def test_not_where_a_spread_scale_is_narrower(self):
        builder = Builder()
        x, scale, shift = builder.input("x", (2, 4, 8)), builder.input("a", (2, 4)), builder.input("b", (2, 1, 8))
        self.stays(builder.build(ops.layer_norm(x) * ops.reshape(1.0 + scale, shape=(2, 4, 1)) + shift))

    def test_not_without_the_one(self):
        builder = Builder()
        x, scale, shift = builder.input("x", (2, 5, 8)), builder.input("a", (2, 1, 8)), builder.input("b", (2, 1, 8))
        self.stays(builder.build(ops.layer_norm(x) * (2.0 + scale) + shift))

    def test_not_where_the_result_is_wider_than_x(self):
        builder = Builder()
        x, scale, shift = builder.input("x", (1, 5, 8)), builder.input("a", (2, 1, 8)), builder.input("b", (2, 1, 8))
        self.stays(builder.build(ops.layer_norm(x) * (1.0 + scale) + shift))

    def test_not_over_two_axes(self):
        builder = Builder()
        x, scale, shift = builder.input("x", (2, 5, 8)), builder.input("a", (2, 1, 8)), builder.input("b", (2, 1, 8))
        self.stays(builder.build(ops.layer_norm(x, axes=2) * (1.0 + scale) + shift))


class TestGatedResidualNorm(PassTest):
    passes = ("fuse_gated_residual_norm",)

    def parts(self, gate=(2, 1, 8)):
        builder = Builder()
        named = {name: builder.input(name, (2, 5, 8)) for name in ("x", "residual")}
        named |= {name: builder.input(name, (2, 1, 8)) for name in ("scale", "shift")}
        return builder, named | {"gate": builder.input("gate", gate)}

    @pytest.mark.parametrize("order", [0, 1])
    def test_both_results(self, order):
        builder, v = self.parts()
        total = v["residual"] + v["gate"] * v["x"] if order else v["x"] * v["gate"] + v["residual"]
        norm = ops.adaptive_layer_norm(total, v["scale"], v["shift"], epsilon=1e-6)
        graph = builder.build(total * 2.0, norm)
        self.becomes(graph, {"gated_residual_adaptive_layer_norm": 1, "constant": 1, "multiply": 1})

    def test_not_where_gate_and_input_cannot_be_told_apart(self):
        builder, v = self.parts(gate=(2, 5, 8))
        total = v["residual"] + v["gate"] * v["x"]
        self.stays(builder.build(total, ops.adaptive_layer_norm(total, v["scale"], v["shift"], epsilon=1e-6)))

    def test_not_in_a_circle(self):
        """The scale is computed from the sum, so the sum must be there before the norm can be."""
        builder, v = self.parts()
        total = v["residual"] + v["gate"] * v["x"]
        scale = ops.mean(total, axes=(1,), keepdims=True)
        self.stays(builder.build(total, ops.adaptive_layer_norm(total, scale, v["shift"], epsilon=1e-6)))


class TestSwiglu(PassTest):
    passes = ("fuse_swiglu",)

    @pytest.mark.parametrize("swapped", [False, True])
    def test_it_fires(self, swapped):
        builder = Builder()
        gate, up = builder.input("gate", (3, 8)), builder.input("up", (3, 8))
        y = up * ops.silu(gate) if swapped else ops.silu(gate) * up
        after = self.becomes(builder.build(y), {"swiglu": 1})
        assert [value.name for value in after.nodes[0].inputs] == ["gate", "up"]

    def test_not_where_one_is_spread_over_the_other(self):
        builder = Builder()
        gate, up = builder.input("gate", (3, 1)), builder.input("up", (3, 8))
        self.stays(builder.build(ops.silu(gate) * up))


class TestGroupNormSilu(PassTest):
    passes = ("fuse_group_norm_silu",)

    @pytest.mark.parametrize("affine", [False, True])
    def test_it_fires(self, affine):
        builder = Builder()
        x = builder.input("x", (2, 8, 3, 3))
        extra = (builder.parameter("w", (8,)), builder.parameter("b", (8,))) if affine else ()
        after = self.becomes(builder.build(ops.silu(ops.group_norm(x, *extra, groups=4))), {"group_norm": 1})
        assert after.nodes[0].activation == "silu"

    def test_not_where_the_norm_is_read_elsewhere(self):
        builder = Builder()
        norm = ops.group_norm(builder.input("x", (2, 8, 3, 3)), groups=4)
        self.stays(builder.build(ops.silu(norm), norm))


def test_the_harness_finds_a_wrong_pass():
    class Wrong(PassTest):
        passes = ()

    builder = Builder()
    x = builder.input("x", (4,))
    right, wrong = builder.build(x * 2.0), builder.build(x * 2.000001)
    with pytest.raises(AssertionError):
        Wrong().means_the_same(wrong, right)
    with pytest.raises(AssertionError):
        Wrong().becomes(right, {"multiply": 2, "constant": 1})
