"""The passes that only clean: duplicates, constants, dead nodes, views that change nothing."""

import numpy
import pytest

from jitinfer.graph import Builder, ops
from jitinfer.testing import PassTest


class TestMergeDuplicates(PassTest):
    passes = ("merge_duplicates",)

    def test_chains_of_equal_nodes(self):
        builder = Builder()
        x = builder.input("x", (3, 4))
        y = ops.exp(ops.softmax(x)) + ops.exp(ops.softmax(x))
        self.becomes(builder.build(y), {"softmax": 1, "exp": 1, "add": 1})

    def test_not_with_other_attributes_or_order(self):
        builder = Builder()
        x, y = builder.input("x", (4, 4)), builder.input("y", (4, 4))
        self.stays(builder.build(ops.softmax(x, axis=0), ops.softmax(x, axis=1), x - y, y - x))

    def test_zeros_of_both_signs_are_two_constants(self):
        builder = Builder()
        x = builder.input("x", (4,))
        self.stays(builder.build(x / builder.constant(0.0, "float32"), x / builder.constant(-0.0, "float32")))

    def test_attributes_that_only_compare_equal(self):
        builder = Builder()
        x = builder.input("x", (4,))
        low, high = (ops.clip(x, low=zero, high=1.0) for zero in (0.0, -0.0))
        self.stays(builder.build(low, high))


class TestFoldConstants(PassTest):
    passes = ("fold_constants", "eliminate_dead_nodes")
    tolerance = 4 * 2.0**-24
    """A folded chain is rounded to float32, as it is when it runs: twice here, the first amplified by less than 2."""

    def test_a_chain(self):
        builder = Builder()
        x = builder.input("x", (4,))
        table = ops.exp(builder.constant(numpy.arange(4.0), "float32") * -0.5)
        self.becomes(builder.build(x * table), {"constant": 1, "multiply": 1})

    def test_weights_are_not_constants(self):
        builder = Builder()
        w = builder.parameter("w", (4,))
        self.stays(builder.build(ops.exp(w)))

    def test_a_large_result_is_left_for_the_prologue(self):
        builder = Builder()
        self.stays(builder.build(ops.broadcast_to(builder.constant(1.5, "float32"), shape=(1024, 1024))))


class TestSimplify(PassTest):
    passes = ("simplify", "eliminate_dead_nodes")

    def test_views_in_a_row(self):
        builder = Builder()
        x = builder.input("x", (2, 3, 4))
        y = ops.transpose(ops.transpose(x, permutation=(0, 2, 1)), permutation=(0, 2, 1))
        self.becomes(
            builder.build(ops.reshape(ops.reshape(y, shape=(6, 4)), shape=(3, 8)) * 3.0),
            {"reshape": 1, "constant": 1, "multiply": 1},
        )

    def test_transposing_an_axis_of_one_is_reshaping(self):
        builder = Builder()
        x = builder.input("x", (2, 1, 4))
        self.becomes(builder.build(ops.transpose(x, permutation=(1, 0, 2))), {"reshape": 1})

    @pytest.mark.parametrize("form", ["x * 1", "1 * x", "x + 0", "x - 0", "x / 1"])
    def test_neutral_numbers(self, form):
        builder = Builder()
        x = builder.input("x", (2, 4))
        self.becomes(builder.build(eval(form, {"x": x}) * 3.0), {"constant": 1, "multiply": 1})

    def test_not_where_the_number_makes_the_result_wider(self):
        builder = Builder()
        x = builder.input("x", (1, 4))
        self.stays(builder.build(x * builder.constant(numpy.ones((3, 4)), "float32")))

    @pytest.mark.parametrize("form", ["0 - x", "1 / x", "x * 2"])
    def test_not_the_other_way_round(self, form):
        builder = Builder()
        x = builder.input("x", (2, 4))
        self.stays(builder.build(eval(form, {"x": x})))

    def test_a_transpose_that_moves_something_stays(self):
        builder = Builder()
        self.stays(builder.build(ops.transpose(builder.input("x", (2, 3)), permutation=(1, 0))))

    @pytest.mark.parametrize(
        ("dtype", "through", "to"),
        [
            ("bool", "float32", "bool"),
            ("float16", "float32", "float16"),
            ("bfloat16", "float32", "bfloat16"),
            ("bfloat16", "float32", "float16"),
            ("int8", "int64", "float32"),
            ("int32", "float64", "int64"),
        ],
    )
    def test_a_cast_that_changes_no_number_before_another(self, dtype, through, to):
        builder = Builder()
        y = ops.cast(ops.cast(builder.input("x", (5,), dtype), dtype=through), dtype=to)
        self.becomes(builder.build(y), {} if dtype == to else {"cast": 1})

    @pytest.mark.parametrize(
        ("dtype", "through", "to"),
        [
            ("float32", "bfloat16", "float32"),
            ("float32", "bool", "float32"),
            ("float16", "bfloat16", "float32"),
            ("bfloat16", "float16", "bfloat16"),
            ("int64", "float32", "int64"),
            ("float32", "int32", "float32"),
        ],
    )
    def test_a_cast_that_rounds_stays(self, dtype, through, to):
        builder = Builder()
        self.stays(builder.build(ops.cast(ops.cast(builder.input("x", (5,), dtype), dtype=through), dtype=to)))
