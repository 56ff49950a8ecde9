"""Views become strides: of operands, and of results."""

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitinfer.graph import Builder, View, ops
from jitinfer.graph.evaluation import apply_store, apply_view
from jitinfer.passes import run_passes
from jitinfer.passes.absorb_views import inverse
from jitinfer.testing import PassTest


class TestOperands(PassTest):
    passes = ("absorb_views",)

    def test_heads_of_attention(self):
        """From one packed projection, as diffusion transformers write it."""
        builder = Builder()
        x = builder.input("x", (2, 6, 3 * 4 * 8))
        split = ops.transpose(ops.reshape(x, shape=(2, 6, 3, 4, 8)), permutation=(2, 0, 1, 3, 4))
        parts = [
            ops.reshape(
                ops.slice(split, starts=(i, 0, 0, 0, 0), stops=(i + 1, 2, 6, 4, 8), steps=(1,) * 5), shape=(2, 6, 4, 8)
            )
            for i in range(3)
        ]
        after = self.becomes(builder.build(ops.attention(*parts, scale=0.5)), {"attention": 1})
        assert [view.offset for view in after.nodes[0].views] == [0, 32, 64]

    def test_a_view_of_everything_is_no_view(self):
        builder = Builder()
        x = builder.input("x", (2, 6))
        after = self.becomes(builder.build(ops.exp(ops.reshape(ops.reshape(x, shape=(12,)), shape=(2, 6)))), {"exp": 1})
        assert after.nodes[0].views == ()

    def test_a_copy_stays(self):
        builder = Builder()
        x = builder.input("x", (2, 6))
        flat = ops.reshape(ops.transpose(x, permutation=(1, 0)), shape=(12,))
        self.becomes(builder.build(ops.exp(flat)), {"transpose": 1, "reshape": 1, "exp": 1})

    def test_an_output_stays(self):
        builder = Builder()
        x = builder.input("x", (2, 6))
        turned = ops.transpose(x, permutation=(1, 0))
        after = self.becomes(builder.build(turned, ops.exp(turned)), {"transpose": 1, "exp": 1})
        assert after.nodes[1].inputs == (after.inputs[0],)

    @pytest.mark.parametrize("channels", [4, 6])
    def test_what_is_put_together_is_shuffled_part_by_part(self, channels):
        """Channels of two groups in turn (ShuffleNet); a part across the border of a group has no one stride."""
        builder = Builder()
        x = [ops.exp(builder.input(f"x{i}", (2, n, 3, 3))) for i, n in enumerate((channels, 8 - channels))]
        both = ops.reshape(ops.concat(*x, axis=1), shape=(2, 2, 4, 3, 3))
        shuffled = ops.reshape(ops.transpose(both, permutation=(0, 2, 1, 3, 4)), shape=(2, 8, 3, 3))
        graph = builder.build(ops.cumsum(shuffled, axis=0))
        after, _ = run_passes(graph, ["absorb_views", "absorb_stores"], check=True)
        self.means_the_same(after, graph)
        assert after.counts()["transpose"] == (0 if channels == 4 else 1)

    def test_a_convolution_writes_along_its_axes(self):
        """To rows of tokens, but not shuffled."""
        builder = Builder()
        x, weight = builder.input("x", (2, 3, 5, 5)), builder.parameter("w", (8, 3, 2, 2))
        y = ops.conv2d(x, weight)
        tokens = ops.transpose(ops.reshape(y, shape=(2, 8, 16)), permutation=(0, 2, 1))
        after, _ = run_passes(builder.build(tokens), ["absorb_views", "absorb_stores"], check=True)
        assert after.counts() == {"conv2d": 1}
        shuffled = ops.transpose(ops.reshape(y, shape=(2, 2, 4, 4, 4)), permutation=(0, 2, 1, 3, 4))
        after, _ = run_passes(builder.build(shuffled), ["absorb_views", "absorb_stores"], check=True)
        assert after.counts() == {"conv2d": 1, "transpose": 1}

    def test_an_op_without_strides_reads_the_view(self):
        builder = Builder()
        x = builder.input("x", (2, 6))
        self.stays(builder.build(ops.cumsum(ops.transpose(x, permutation=(1, 0)), axis=0)))

    def test_twice_is_the_same(self):
        builder = Builder()
        x = builder.input("x", (4, 6))
        rows = ops.slice(x, starts=(1, 0), stops=(4, 6), steps=(2, 1))
        graph = builder.build(ops.exp(ops.transpose(rows, permutation=(1, 0))))
        self.stays(self.becomes(graph, {"exp": 1}))

    def test_a_view_with_a_view(self):
        """A transpose that itself reads through strides is still one view."""
        builder = Builder()
        x = builder.input("x", (4, 6))
        first = ops.transpose(ops.slice(x, starts=(0, 1), stops=(4, 5), steps=(1, 2)), permutation=(1, 0))
        after = self.becomes(builder.build(first, ops.exp(first)), {"transpose": 1, "exp": 1})
        assert after.nodes[0].inputs == after.nodes[1].inputs == after.inputs

    def test_broadcasts(self):
        builder = Builder()
        x, y = builder.input("x", (6,)), builder.input("y", (4, 6))
        self.becomes(builder.build(ops.add(ops.broadcast_to(x, shape=(4, 6)), y)), {"add": 1})


class TestResults(PassTest):
    passes = ("absorb_views", "absorb_stores")

    def patches(self, *, shared=False):
        """The last steps of a diffusion transformer: patches back to images."""
        builder = Builder()
        x = builder.input("x", (2, 12, 8))
        y = ops.linear(x, builder.input("w", (8, 2 * 2 * 3)))
        image = ops.transpose(ops.reshape(y, shape=(2, 3, 4, 2, 2, 3)), permutation=(0, 5, 1, 3, 2, 4))
        outputs = [ops.reshape(image, shape=(2, 3, 6, 8))]
        return builder.build(*outputs, *([ops.cumsum(y, axis=0)] if shared else []))

    def test_images_are_written_at_once(self):
        after = self.becomes(self.patches(), {"linear": 1})
        assert after.nodes[0].stores[0].shape == (2, 3, 4, 2, 2, 3)
        assert after.outputs[0].shape == (2, 3, 6, 8)

    def test_a_result_in_another_shape(self):
        builder = Builder()
        y = ops.reshape(ops.exp(builder.input("x", (4, 6))), shape=(2, 12))
        after = self.becomes(builder.build(ops.cumsum(y, axis=0)), {"exp": 1, "cumsum": 1})
        assert after.nodes[0].stores == (View.of((4, 6)),)

    def test_one_of_two_results(self):
        builder = Builder()
        x, gate = builder.input("x", (2, 4, 6)), builder.input("gate", (2, 1, 6))
        total, normal = ops.gated_residual_adaptive_layer_norm(x, x, gate, gate, gate)
        turned = ops.transpose(normal, permutation=(2, 0, 1))
        after = self.becomes(
            builder.build(ops.cumsum(turned, axis=0), total), {"gated_residual_adaptive_layer_norm": 1, "cumsum": 1}
        )
        assert after.nodes[0].stores[0] is None

    def test_a_result_that_others_read_stays(self):
        self.becomes(self.patches(shared=True), {"linear": 1, "transpose": 1, "cumsum": 1})

    def test_a_part_is_not_all(self):
        builder = Builder()
        x = builder.input("x", (4, 6))
        part = ops.slice(ops.exp(x), starts=(0, 0), stops=(2, 6), steps=(1, 1))
        self.becomes(builder.build(ops.transpose(part, permutation=(1, 0))), {"exp": 1, "transpose": 1})

    def test_an_output_is_where_it_was(self):
        builder = Builder()
        y = ops.exp(builder.input("x", (4, 6)))
        self.becomes(builder.build(y, ops.transpose(y, permutation=(1, 0))), {"exp": 1, "transpose": 1})


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4).flatmap(
        lambda shape: st.tuples(st.just(tuple(shape)), st.permutations(range(len(shape))))
    )
)
@settings(max_examples=300, deadline=None)
def test_an_inverse_brings_every_element_home(form):
    shape, permutation = form
    view = View.of(shape).transpose(tuple(permutation))
    array = numpy.arange(view.size)
    store = inverse(view, view.size)
    assert store is not None
    assert numpy.array_equal(apply_store(array.reshape(store.shape), store, view.shape), apply_view(array, view))


@pytest.mark.parametrize(
    "view", [View((2, 3), (6, 1)), View((6,), (1,), 1), View((2, 3), (0, 1)), View((6,), (-1,), 5)]
)
def test_what_is_no_permutation_has_no_inverse(view):
    assert inverse(view, 6) is None


class TestConcat(PassTest):
    passes = ("absorb_views",)

    def test_parts_of_wider_rows_are_put_together_at_once(self):
        """As in joint attention: queries of images and of texts, out of a product that has keys and values too."""
        builder = Builder()
        image, text = builder.input("image", (2, 6, 12)), builder.input("text", (2, 3, 12))
        parts = [
            ops.slice(each, starts=(0, 0, 4), stops=(*each.shape[:2], 8), steps=(1, 1, 1)) for each in (image, text)
        ]
        after = self.becomes(builder.build(ops.concat(*parts, axis=1)), {"concat": 1})
        assert [view.offset for view in after.nodes[0].views] == [4, 4]
