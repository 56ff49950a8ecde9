"""Sinusoidal embeddings of timesteps, in every spelling, and what only looks like one."""

import numpy
import pytest
from model_graphs import model_graph
from models import dit, large_dit, pixart, sd3, unet

from jitinfer.graph import Builder, ops
from jitinfer.testing import PassTest

FREQUENCIES = numpy.exp(-numpy.arange(6) * 0.7).astype("float32")


def embedding(form="cast(reshape)", dtype="int64", count=3, row=True, factor=None, order="cos sin", axis=1):
    """The written-out embedding of `count` timesteps."""
    builder = Builder()
    t = builder.input("t", (count,), dtype)
    column = {
        "cast(reshape)": lambda: ops.cast(ops.reshape(t, shape=(count, 1)), dtype="float32"),
        "reshape(cast)": lambda: ops.reshape(ops.cast(t, dtype="float32"), shape=(count, 1)),
        "reshape": lambda: ops.reshape(t, shape=(count, 1)),
    }[form]()
    frequencies = builder.constant(FREQUENCIES[None] if row else FREQUENCIES)
    angles = column * frequencies
    angles = angles if factor is None else angles * factor
    parts = {"cos": ops.cos(angles), "sin": ops.sin(angles)}
    return builder, ops.concat(*(parts[name] for name in order.split()), axis=axis)


class TestFormTimestepEmbedding(PassTest):
    passes = ("form_timestep_embedding", "fold_constants", "simplify", "eliminate_dead_nodes")

    @pytest.mark.parametrize(
        ("form", "dtype"),
        [("cast(reshape)", "int64"), ("reshape(cast)", "int32"), ("reshape", "float32"), ("cast(reshape)", "float16")],
    )
    @pytest.mark.parametrize("count", [1, 3])
    @pytest.mark.parametrize("row", [True, False])
    @pytest.mark.parametrize("order", ["cos sin", "sin cos"])
    def test_every_spelling(self, form, dtype, count, row, order):
        builder, y = embedding(form, dtype, count, row, None, order)
        after = self.becomes(builder.build(y), {"constant": 1, "timestep_embedding": 1})
        node = after.nodes[-1]
        assert node.sin_first == (order == "sin cos")
        assert node.operand("t") is after.inputs[0]
        constant = after.producers[node.operand("frequencies")].attributes["value"].array
        numpy.testing.assert_array_equal(constant, FREQUENCIES)

    @pytest.mark.parametrize("factor", [2.0, 0.25, 1024.0])
    def test_a_factor_that_rounds_nothing_goes_into_the_frequencies(self, factor):
        builder, y = embedding(factor=factor)
        after = self.becomes(builder.build(y), {"constant": 1, "timestep_embedding": 1})
        constant = after.nodes[0].attributes["value"].array
        numpy.testing.assert_array_equal(constant, FREQUENCIES * numpy.float32(factor))

    @pytest.mark.parametrize("factor", [1000.0, 3.0, -2.0, 0.1, 2.0**30])
    def test_another_factor_stays(self, factor):
        builder, y = embedding(factor=factor)
        self.stays(builder.build(y))

    def test_frequencies_that_are_weights(self):
        builder = Builder()
        t, frequencies = builder.input("t", (3,)), builder.parameter("frequencies", (1, 6))
        angles = ops.reshape(t, shape=(3, 1)) * frequencies
        y = ops.concat(ops.sin(angles), ops.cos(angles), axis=-1)
        self.becomes(builder.build(y), {"reshape": 1, "timestep_embedding": 1})

    def test_a_cast_that_others_read_stays_for_them(self):
        builder = Builder()
        t = ops.cast(builder.input("t", (3,), "int64"), dtype="float32")
        angles = ops.reshape(t, shape=(3, 1)) * builder.constant(FREQUENCIES)
        y = ops.concat(ops.cos(angles), ops.sin(angles), axis=1)
        self.becomes(builder.build(y, t * t), {"cast": 1, "constant": 1, "timestep_embedding": 1, "multiply": 1})

    def test_not_in_float64(self):
        builder = Builder()
        angles = ops.reshape(builder.input("t", (3,), "float64"), shape=(3, 1)) * builder.constant(
            FREQUENCIES, "float64"
        )
        self.stays(builder.build(ops.concat(ops.cos(angles), ops.sin(angles), axis=1)))

    def test_not_one_below_the_other(self):
        builder, y = embedding(axis=0)
        self.stays(builder.build(y))

    def test_not_of_two_different_angles(self):
        builder = Builder()
        t = ops.reshape(builder.input("t", (3,)), shape=(3, 1))
        first, second = t * builder.constant(FREQUENCIES), t * builder.constant(FREQUENCIES * 3)
        self.stays(builder.build(ops.concat(ops.cos(first), ops.sin(second), axis=1)))

    def test_not_where_angles_are_no_outer_product(self):
        builder = Builder()
        t = builder.input("t", (6,))
        angles = ops.reshape(t, shape=(1, 6)) * builder.constant(FREQUENCIES[None])
        self.stays(builder.build(ops.concat(ops.cos(angles), ops.sin(angles), axis=1)))

    def test_not_where_the_angles_are_read_elsewhere(self):
        builder = Builder()
        angles = ops.reshape(builder.input("t", (3,)), shape=(3, 1)) * builder.constant(FREQUENCIES[None])
        self.stays(builder.build(ops.concat(ops.cos(angles), ops.sin(angles), axis=1), angles))


class TestFlipTimestepEmbedding(PassTest):
    passes = ("flip_timestep_embedding", "eliminate_dead_nodes")

    def flipped(self, bounds=((6, 12), (0, 6)), *, sin_first=False, axis=1, others=False):
        builder = Builder()
        whole = ops.timestep_embedding(
            builder.input("t", (3,), "int64"), builder.constant(FREQUENCIES), sin_first=sin_first
        )
        parts = [ops.slice(whole, starts=(0, a), stops=(3, b), steps=(1, 1)) for a, b in bounds]
        return builder.build(ops.concat(*parts, axis=axis), *([whole] if others else []))

    @pytest.mark.parametrize("sin_first", [True, False])
    def test_halves_in_the_other_order(self, sin_first):
        after = self.becomes(self.flipped(sin_first=sin_first), {"constant": 1, "timestep_embedding": 1})
        assert after.nodes[-1].sin_first is not sin_first

    @pytest.mark.parametrize("bounds", [((0, 6), (6, 12)), ((5, 12), (0, 5)), ((6, 12), (6, 12)), ((6, 11), (0, 6))])
    def test_other_parts_stay(self, bounds):
        self.stays(self.flipped(bounds))

    def test_not_below_each_other_or_where_others_read_it(self):
        self.stays(self.flipped(axis=0))
        self.stays(self.flipped(others=True))


@pytest.mark.parametrize("builder", [dit, sd3, pixart, large_dit, unet], ids=lambda builder: builder.__name__)
def test_models_have_one_embedding(builder):
    """DiT writes it once for each block, and once more for its end: merged, they are one."""
    found = model_graph(builder)
    assert found.graph.counts()["sin"] == (3 if builder is dit else 1)
    counts = found.after.counts()
    assert counts["timestep_embedding"] == 1
    assert not {"sin", "cos", "exp"} & set(counts)
    (node,) = (node for node in found.after.nodes if node.op.name == "timestep_embedding")
    assert found.after.producers[node.operand("frequencies")].op.name == "constant"
    assert found.error_of(found.after) <= 1e-4
