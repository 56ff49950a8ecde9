"""Masks of attention: filled scores, booleans, and causal constants that need no mask at all."""

import math

import numpy
import paddle
import pytest
from graphs import imported
from paddle.nn import functional

from jitinfer.graph import Builder, evaluate, op_named, ops
from jitinfer.passes import default, run_passes
from jitinfer.testing import PassTest

LOWEST = float(numpy.finfo("float32").min)
INFINITE = -math.inf


def operands(builder, seq=5, other=5):
    return [builder.input(name, (2, 3, size, 4)) for name, size in (("q", seq), ("k", other), ("v", other))]


class TestFormMaskedScores(PassTest):
    passes = ("form_masked_scores", "fuse_attention", "form_boolean_mask", "simplify", "eliminate_dead_nodes")

    def filled(self, filler, *, swapped=False, shape=(2, 1, 5, 5)):
        builder = Builder()
        q, k, v = operands(builder)
        scores = ops.matmul(q, k, transpose_y=True) * 0.5
        condition = builder.input("condition", shape, "bool")
        number = builder.constant(filler, "float32")
        order = (number, scores) if swapped else (scores, number)
        return builder.build(ops.matmul(ops.softmax(ops.where(condition, *order)), v))

    def test_infinity_becomes_a_boolean_mask(self):
        after = self.becomes(self.filled(INFINITE), {"attention": 1, "transpose": 4})
        (node,) = (node for node in after.nodes if node.op.name == "attention")
        assert node.operand("mask") is after.inputs[-1]

    def test_the_other_way_round(self):
        self.becomes(self.filled(INFINITE, swapped=True), {"attention": 1, "transpose": 4, "logical_not": 1})

    @pytest.mark.parametrize("swapped", [False, True])
    def test_the_lowest_number_stays_a_mask_of_numbers(self, swapped):
        graph = self.filled(LOWEST, swapped=swapped)
        after = self.becomes(graph, {"attention": 1, "transpose": 4, "where": 1, "constant": 2})
        arrays = [numpy.ones(value.shape, value.dtype) for value in graph.inputs]
        arrays[-1][:] = swapped  # nothing is visible: all keys have the same weight
        numpy.testing.assert_array_equal(*evaluate(graph, arrays), *evaluate(after, arrays))
        assert numpy.isfinite(evaluate(after, arrays)[0]).all()

    @pytest.mark.parametrize("filler", [-1e4, -1e9, 0.0, LOWEST / 2])
    def test_a_number_that_scores_could_outweigh_stays(self, filler):
        self.stays_apart(self.filled(filler))

    def test_a_condition_that_makes_the_scores_wider_stays(self):
        builder = Builder()
        q, k, v = (builder.input(name, (1, 3, 5, 4)) for name in "qkv")
        condition = builder.input("condition", (2, 1, 5, 5), "bool")
        scores = ops.matmul(q, k, transpose_y=True)
        filled = ops.where(condition, scores, builder.constant(INFINITE, "float32"))
        self.stays_apart(builder.build(ops.matmul(ops.softmax(filled), v)))

    def stays_apart(self, graph):
        self.stays(graph)


class TestFormBooleanMask(PassTest):
    passes = ("form_boolean_mask", "eliminate_dead_nodes")

    def attention(self, first, second):
        builder = Builder()
        q, k, v = (builder.input(name, (2, 5, 3, 4)) for name in "qkv")
        condition = builder.input("condition", (2, 1, 5, 5), "bool")
        mask = ops.where(condition, *(builder.constant(number, "float32") for number in (first, second)))
        return builder.build(ops.attention(q, k, v, mask, scale=0.5))

    def test_infinity(self):
        self.becomes(self.attention(0.0, INFINITE), {"attention": 1})
        self.becomes(self.attention(INFINITE, 0.0), {"attention": 1, "logical_not": 1})

    @pytest.mark.parametrize("numbers", [(0.0, LOWEST), (1.0, INFINITE), (LOWEST, 0.0), (0.0, -1e4)])
    def test_other_numbers_stay(self, numbers):
        self.stays(self.attention(*numbers))


def causal(seq, other, filler=INFINITE, dtype="float32"):
    visible = numpy.tri(seq, other, other - seq, dtype=bool)
    return visible if dtype == "bool" else numpy.where(visible, 0, numpy.float32(filler)).astype(dtype)


class TestFormCausalAttention(PassTest):
    passes = ("form_causal_attention", "eliminate_dead_nodes")

    def attention(self, mask, *, seq=5, other=5, **attributes):
        builder = Builder()
        q, k, v = (builder.input(name, (2, size, 3, 4)) for name, size in (("q", seq), ("k", other), ("v", other)))
        mask = mask(builder) if callable(mask) else builder.constant(mask)
        return builder.build(ops.attention(q, k, v, mask, scale=0.5, **attributes))

    @pytest.mark.parametrize("form", [INFINITE, LOWEST, "bool"])
    @pytest.mark.parametrize("lengths", [(5, 5), (3, 7), (2, 3)])
    @pytest.mark.parametrize("lead", [(), (1, 1), (2, 1), (2, 3)])
    def test_what_comes_later_is_hidden(self, form, lengths, lead):
        mask = causal(*lengths, dtype="bool") if form == "bool" else causal(*lengths, form)
        mask = numpy.broadcast_to(mask, (*lead, *lengths))
        graph = self.attention(mask, seq=lengths[0], other=lengths[1])
        after = self.becomes(graph, {"attention": 1})
        assert after.nodes[0].causal

    def test_one_query_sees_everything(self):
        after = self.becomes(self.attention(causal(1, 6), seq=1, other=6), {"attention": 1})
        assert not after.nodes[0].causal

    @pytest.mark.parametrize("mask", [numpy.zeros((5, 5), "float32"), numpy.ones((1, 5), bool)])
    @pytest.mark.parametrize("causal", [False, True])
    def test_a_mask_that_hides_nothing_goes(self, mask, causal):
        for seq in (4, 5, 6):
            mask = numpy.resize(mask, (seq, 5))
            after = self.becomes(self.attention(mask, seq=seq, causal=causal and seq < 6), {"attention": 1})
            assert after.nodes[0].causal is (causal and seq < 6)

    def test_computed_from_constants(self):
        def mask(builder):
            rows = ops.reshape(builder.constant(numpy.arange(5)), shape=(5, 1))
            one, zero, lowest = (builder.constant(number, "float32") for number in (1.0, 0.0, LOWEST))
            ones = ops.where(ops.less_equal(builder.constant(numpy.arange(5)), rows), one, zero)
            spread = ops.broadcast_to(ops.reshape(ones, shape=(1, 1, 5, 5)), shape=(2, 1, 5, 5))
            return ops.where(ops.equal(spread, one), zero, lowest)

        builder_mask = self.attention(mask)
        assert self.becomes(builder_mask, {"attention": 1}).nodes[0].causal

    def test_a_mask_too_large_to_be_folded(self):
        """The whole pipeline leaves nothing of a mask of 1.4 MB that two layers read."""
        builder = Builder()
        q = builder.input("q", (2, 600, 1, 2))
        columns = builder.apply(op_named("iota"), (), {"size": 600})
        visible = ops.less_equal(columns, ops.reshape(columns, shape=(600, 1)))
        zero, lowest = (builder.constant(number, "float32") for number in (0.0, LOWEST))
        mask = ops.broadcast_to(ops.where(visible, zero, lowest), shape=(2, 1, 600, 600))
        y = ops.attention(q, q, q, mask, scale=1.0)
        self.passes = default()
        after = self.becomes(builder.build(ops.attention(y, y, y, mask, scale=0.5)), {"attention": 2})
        assert [node.causal for node in after.nodes] == [True, True]

    @pytest.mark.parametrize("number", [-1e4, -1e9, LOWEST / 2])
    def test_a_number_that_scores_could_outweigh_stays(self, number):
        self.stays(self.attention(causal(5, 5, number)))

    def test_the_lowest_number_of_float16_stays(self):
        """Scores reach it."""
        self.stays(self.attention(causal(5, 5, -65504.0, "float16")))
        after = self.becomes(self.attention(causal(5, 5, dtype="float16")), {"attention": 1})
        assert after.nodes[0].causal

    def test_more_queries_than_keys_stay(self):
        """The first of them would see nothing: with the lowest number all keys have one weight, else it is nan."""
        self.stays(self.attention(causal(7, 5, LOWEST), seq=7, other=5))

    @pytest.mark.parametrize("change", ["one more", "one less", "shifted", "a bias", "one head"])
    def test_almost_causal_stays(self, change):
        mask = numpy.broadcast_to(causal(5, 5), (2, 3, 5, 5)).copy()
        if change == "one more":
            mask[0, 0, 1, 3] = 0
        elif change == "one less":
            mask[1, 2, 4, 0] = INFINITE
        elif change == "shifted":
            mask[:] = numpy.where(numpy.tri(5, 5, 1, dtype=bool), 0, INFINITE)
        elif change == "a bias":
            mask[0, 0, 2, 1] = 0.5
        else:
            mask[:, 1] = 0
        self.stays(self.attention(mask))

    def test_with_a_mask_of_padding_it_stays_a_mask(self):
        def mask(builder):
            padding = builder.input("padding", (2, 1, 1, 5), "bool")
            return ops.logical_and(padding, builder.constant(causal(5, 5, dtype="bool")))

        self.stays(self.attention(mask))

    def test_a_mask_that_is_a_weight_stays(self):
        self.stays(self.attention(lambda builder: builder.parameter("mask", (5, 5))))


def heads(*sizes):
    return [paddle.randn([2, size, 3, 4]) for size in sizes]


def filled(q, k):
    scores = paddle.matmul(q, k, transpose_y=True)
    hidden = paddle.triu(paddle.ones([6, 6]), 1).astype("bool")
    return paddle.matmul(functional.softmax(paddle.where(hidden, paddle.full([1], LOWEST), scores)), k)


def masked(q, k):
    mask = paddle.triu(paddle.full([6, 6], LOWEST), 1)
    return functional.scaled_dot_product_attention(q, k, k, attn_mask=mask)


FORMS = {"a mask of numbers": masked, "filled scores": filled}


@pytest.mark.parametrize("form", FORMS)
def test_as_models_write_it(form):
    q, k = heads(6, 6)
    q, k = (each.transpose([0, 2, 1, 3]) for each in (q, k)) if form == "filled scores" else (q, k)
    found = imported(FORMS[form], {"q": q, "k": k})
    after, _ = run_passes(found.graph, check=True)
    (node,) = (node for node in after.nodes if node.op.name == "attention")
    assert node.causal
    assert node.operand("mask") is None
    assert found.error_of(after) <= 1e-5


def test_paddle_s_own_causal_attention_is_not_proved():
    """On a CPU it adds -10000: scores that differ by more than that would show through."""
    (q,) = heads(6)
    found = imported(lambda q: functional.scaled_dot_product_attention(q, q, q, is_causal=True), {"q": q})
    after, _ = run_passes(found.graph, check=True)
    (node,) = (node for node in after.nodes if node.op.name == "attention")
    assert not node.causal
    assert node.operand("mask") is not None
