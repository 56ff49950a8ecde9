"""Convolutions as products with a matrix, and products that sum over several axes where they lie."""

import pytest
from model_graphs import model_graph
from models import dit, large_dit, pixart, sd3, transformer_2d

from jitinfer.graph import Builder, ops
from jitinfer.testing import PassTest


def convolution(image=(2, 3, 8, 6), window=(2, 2), out=5, *, biased=True, **attributes):
    builder = Builder()
    x = builder.input("x", image)
    weight = builder.parameter("w", (out, image[1] // attributes.get("groups", 1), *window))
    bias = builder.parameter("b", (out,)) if biased else None
    return builder, ops.conv2d(x, weight, bias, **{"strides": window, **attributes})


class TestConvAsLinear(PassTest):
    passes = ("conv_as_linear", "simplify", "eliminate_dead_nodes")
    moving = ("reshape", "transpose", "slice")

    @pytest.mark.parametrize("image", [(2, 3, 8, 6), (1, 3, 8, 6), (2, 1, 4, 4)])
    @pytest.mark.parametrize("window", [(2, 2), (4, 2), (1, 2)])
    @pytest.mark.parametrize("biased", [True, False])
    @pytest.mark.parametrize("activation", ["none", "silu", "gelu_tanh"])
    def test_windows_side_by_side(self, image, window, biased, activation):
        builder, y = convolution(image, window, biased=biased, activation=activation)
        graph = builder.build(y)
        self.passes = ("conv_as_linear", "contract_axes", "weight_prologue", "absorb_views", "absorb_stores")
        after = self.becomes(graph, {"linear": 1})
        assert after.nodes[0].activation == activation
        assert after.prologue.counts() == {"reshape": 1}

    def test_pixels_that_no_window_reaches(self):
        builder, y = convolution((2, 3, 9, 7))
        self.becomes(
            builder.build(y), {"slice": 1, "reshape": 4, "transpose": 2, "linear": 1}
        )  # of x, patches, weight, image

    @pytest.mark.parametrize(
        "attributes",
        [
            {"strides": (1, 1)},
            {"strides": (2, 1)},
            {"strides": (3, 3)},
            {"padding": ((1, 1), (0, 0))},
            {"padding": ((0, 0), (0, 1))},
            {"dilation": (2, 1)},
            {"groups": 3, "out": 6},
        ],
        ids=str,
    )
    def test_other_convolutions_stay(self, attributes):
        builder, y = convolution(**attributes)
        self.stays(builder.build(y))

    @pytest.mark.parametrize("flat", [True, False])
    def test_a_pixel_whose_result_becomes_tokens(self, flat):
        builder, y = convolution(window=(1, 1))
        if flat:
            tokens = ops.transpose(ops.reshape(y, shape=(2, 5, 48)), permutation=(0, 2, 1))
        else:
            tokens = ops.reshape(ops.transpose(y, permutation=(0, 2, 3, 1)), shape=(2, 48, 5))
        self.passes = ("conv_as_linear", "weight_prologue", "absorb_views", "absorb_stores")
        self.becomes(
            builder.build(ops.softmax(tokens) * 2.0), {"linear": 1, "softmax": 1, "constant": 1, "multiply": 1}
        )

    @pytest.mark.parametrize("flat", [True, False])
    def test_a_pixel_that_was_tokens(self, flat):
        builder = Builder()
        tokens = ops.exp(builder.input("x", (2, 48, 3)))
        if flat:
            image = ops.reshape(ops.transpose(tokens, permutation=(0, 2, 1)), shape=(2, 3, 8, 6))
        else:
            image = ops.transpose(ops.reshape(tokens, shape=(2, 8, 6, 3)), permutation=(0, 3, 1, 2))
        y = ops.conv2d(image, builder.parameter("w", (5, 3, 1, 1)))
        self.passes = ("conv_as_linear", "weight_prologue", "absorb_views", "absorb_stores")
        after = self.becomes(builder.build(ops.group_norm(y, groups=1)), {"exp": 1, "linear": 1, "group_norm": 1})
        assert after.nodes[0].views == after.nodes[1].views == ()

    def test_a_pixel_between_images_stays(self):
        builder, y = convolution(window=(1, 1))
        self.stays(builder.build(ops.group_norm(y, groups=1)))

    def test_a_pixel_that_is_also_read_as_an_image_stays(self):
        builder, y = convolution(window=(1, 1))
        tokens = ops.transpose(ops.reshape(y, shape=(2, 5, 48)), permutation=(0, 2, 1))
        self.stays(builder.build(ops.softmax(tokens), ops.group_norm(y, groups=1)))

    def test_a_pixel_that_is_a_result_stays(self):
        builder, y = convolution(window=(1, 1))
        self.stays(builder.build(y, ops.transpose(y, permutation=(0, 2, 3, 1))))

    def test_another_order_is_no_row_of_tokens(self):
        builder, y = convolution(window=(1, 1))
        self.stays(builder.build(ops.softmax(ops.transpose(y, permutation=(0, 3, 2, 1)))))


class TestContractAxes(PassTest):
    passes = ("contract_axes", "weight_prologue", "absorb_views", "absorb_stores", "eliminate_dead_nodes")

    def patches(self, *, residual=None, gate=None, of_result=False, width=5):
        """Patches of 2 x 3 pixels of an image, as a matrix."""
        builder = Builder()
        x = builder.input("x", (2, 4, 8, 9))
        x = ops.exp(x) if of_result else x
        parts = ops.transpose(ops.reshape(x, shape=(2, 4, 4, 2, 3, 3)), permutation=(0, 2, 4, 1, 3, 5))
        rows = ops.reshape(parts, shape=(2, 12, 24))
        more = [
            None if each is None else builder.parameter(name, each) for name, each in (("r", residual), ("g", gate))
        ]
        y = ops.linear(rows, builder.parameter("w", (24, width)), builder.parameter("b", (width,)), *more)
        return builder.build(y)

    @pytest.mark.parametrize("residual", [None, (2, 12, 5), (12, 5), (1, 12, 5), (2, 1, 5), (5,), ()])
    @pytest.mark.parametrize("gate", [None, (2, 1, 5), (12, 1), (1,)])
    def test_patches_are_read_where_they_lie(self, residual, gate):
        after = self.becomes(self.patches(residual=residual, gate=gate), {"linear": 1})
        assert after.nodes[0].contraction == 3
        assert after.nodes[0].inputs[0] is after.inputs[0]

    def test_what_kernels_cannot_write_in_that_order_is_read_in_it(self):
        after = self.becomes(self.patches(of_result=True), {"exp": 1, "linear": 1})
        assert after.nodes[1].contraction == 3
        assert not any(after.nodes[0].stores)

    def test_what_products_can_write_in_that_order_is(self):
        builder = Builder()
        image = ops.linear(builder.input("x", (2, 4, 6)), builder.parameter("v", (6, 6)))
        parts = ops.transpose(ops.reshape(image, shape=(2, 2, 2, 3, 2)), permutation=(0, 1, 3, 2, 4))
        y = ops.linear(ops.reshape(parts, shape=(2, 6, 4)), builder.parameter("w", (4, 5)))
        after = self.becomes(builder.build(y), {"linear": 2})
        assert after.nodes[1].contraction == 1
        assert after.nodes[0].stores[0] is not None

    def test_a_reshape_that_copies_nothing_stays(self):
        builder = Builder()
        x = ops.transpose(builder.input("x", (2, 3, 4, 6)), permutation=(1, 0, 2, 3))
        y = ops.linear(ops.reshape(x, shape=(3, 2, 24)), builder.parameter("w", (24, 5)))
        graph = builder.build(y)
        self.passes = ("contract_axes",)
        self.stays(graph)

    def test_rows_that_others_read_stay(self):
        builder = Builder()
        x = builder.input("x", (2, 4, 6))
        rows = ops.reshape(ops.transpose(x, permutation=(0, 2, 1)), shape=(12, 4))
        flat = ops.reshape(ops.transpose(x, permutation=(0, 2, 1)), shape=(2, 24))
        weights = [builder.parameter(f"w{i}", (24, 5)) for i in range(2)]
        self.passes = ("contract_axes",)
        self.stays(builder.build(ops.linear(flat, weights[0]), ops.cumsum(flat, axis=0), rows))

    def test_sums_that_end_within_an_axis_stay(self):
        builder = Builder()
        x = ops.transpose(builder.input("x", (4, 6)), permutation=(1, 0))
        self.passes = ("contract_axes",)
        self.stays(builder.build(ops.linear(ops.reshape(x, shape=(3, 8)), builder.parameter("w", (8, 5)))))

    @pytest.mark.parametrize(("residual", "fires"), [((2, 3, 5), True), ((3, 5), False), ((2, 1, 5), False)])
    def test_a_residual_along_half_of_what_is_one_axis_stays(self, residual, fires):
        builder = Builder()
        parts = ops.transpose(builder.input("x", (4, 6, 3)), permutation=(1, 2, 0))
        rows = ops.reshape(parts, shape=(2, 3, 12))
        y = ops.linear(rows, builder.parameter("w", (12, 5)), None, builder.parameter("r", residual))
        self.passes = ("contract_axes",)
        if fires:
            self.becomes(builder.build(y), {"transpose": 1, "reshape": 2, "linear": 1})
        else:
            self.stays(builder.build(y))


@pytest.mark.parametrize(
    ("builder", "left"),
    [(dit, set()), (sd3, {"concat"}), (pixart, set()), (large_dit, set()), (transformer_2d, {"conv2d"})],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_transformers_of_images_move_no_data(builder, left):
    """No convolution and no reshape is left; of what moves data, the joint attention of SD3 concatenates.

    The projection to which Transformer2D adds an image stays a convolution of single pixels.
    """
    found = model_graph(builder)
    moving = {"conv2d", "reshape", "transpose", "slice", "broadcast_to", "concat"}
    assert moving & set(found.after.counts()) == left
    assert found.error_of(found.after) <= 1e-4
