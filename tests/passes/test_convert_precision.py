"""Graphs in bfloat16 and float16: what is computed in which dtype, where casts stand, and how exact the results are."""

import math
from collections import Counter

import numpy
import pytest
from model_graphs import model_graph
from models import BUILDERS

from jitinfer.errors import PassError
from jitinfer.graph import Builder, evaluate, op_named, ops, parse
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.types import FLOATING, limits, numpy_dtype
from jitinfer.passes import converting, default, run_passes
from jitinfer.testing import random_array

NARROW = ("bfloat16", "float16")
LOWEST = float(numpy.finfo("float32").min)


def converted(graph, dtype="bfloat16", names=()):
    after, _ = run_passes(graph, [f"convert_to_{dtype}", *names], check=True)
    assert [value.type for value in after.inputs] == [value.type for value in graph.inputs]
    assert [value.type for value in after.weights] == [value.type for value in graph.weights]
    assert [value.type for value in after.outputs] == [value.type for value in graph.outputs]
    return after


def dtypes(graph, name):
    """Of the results of all nodes of one op."""
    return [value.dtype for node in graph.nodes if node.op.name == name for value in node.outputs]


def operand_dtypes(graph, name):
    return [value.dtype for node in graph.nodes if node.op.name == name for value in node.inputs if value is not None]


class TestPolicy:
    @pytest.mark.parametrize("dtype", NARROW)
    def test_between_the_border_s_casts(self, dtype):
        builder = Builder()
        x = builder.input("x", (3, 8))
        y = ops.silu(ops.linear(x, builder.parameter("w", (8, 8)), builder.parameter("b", (8,))))
        z = ops.layer_norm(y + x, builder.parameter("s", (8,)), builder.parameter("c", (8,)))
        after = converted(builder.build(z), dtype, ["weight_prologue"])
        assert after.counts() == {"cast": 2, "linear": 1, "silu": 1, "add": 1, "layer_norm": 1}
        assert dtypes(after, "cast") == [dtype, "float32"]
        for name in ("linear", "silu", "add", "layer_norm"):
            assert {*dtypes(after, name), *operand_dtypes(after, name)} == {dtype}
        assert after.prologue.counts() == {"cast": 4}

    def test_weights_are_computed_in_float32_and_cast_once(self):
        builder = Builder()
        x, w = builder.input("x", (3, 8)), builder.parameter("w", (8, 8))
        scaled = ops.transpose(w * 2.0, permutation=(1, 0))
        graph = builder.build(ops.linear(ops.linear(x, scaled), scaled))
        after = converted(graph, names=["weight_prologue", "eliminate_dead_nodes"])
        assert after.counts() == {"cast": 2, "linear": 2}
        assert after.prologue.counts() == {"constant": 1, "multiply": 1, "transpose": 1, "cast": 1}
        assert dtypes(after.prologue, "multiply") == dtypes(after.prologue, "transpose") == ["float32"]

    def test_tables_of_embeddings_are_weights(self):
        builder = Builder()
        ids, table = builder.input("ids", (2, 3), "int64"), builder.parameter("table", (9, 8))
        places = ops.broadcast_to(builder.parameter("places", (3, 8)), shape=(2, 3, 8))
        after = converted(builder.build(ops.layer_norm(ops.gather(table, ids) + places)), names=["weight_prologue"])
        assert after.counts() == {"gather": 1, "broadcast_to": 1, "add": 1, "layer_norm": 1, "cast": 1}
        assert after.prologue.counts() == {"cast": 2}

    def test_angles_stay_wide(self):
        """Positions times frequencies, even where the frequencies are weights."""
        builder = Builder()
        positions = ops.cast(builder.input("positions", (6, 1), "int64"), dtype="float32")
        angles = positions * builder.parameter("frequencies", (1, 4))
        cos, sin = (ops.concat(f(angles), f(angles), axis=1) for f in (ops.cos, ops.sin))
        x = ops.matmul(builder.input("x", (6, 8)), builder.parameter("w", (8, 8)))
        after = converted(builder.build(ops.rotary(x, cos, sin)))
        assert set(operand_dtypes(after, "cos") + dtypes(after, "cos") + dtypes(after, "multiply")) == {"float32"}
        assert set(operand_dtypes(after, "rotary") + dtypes(after, "rotary")) == {"bfloat16"}

    def test_timesteps_stay_wide(self):
        builder = Builder()
        t = builder.input("t", (2,))
        y = ops.linear(
            ops.timestep_embedding(t * 1000.0, builder.constant(numpy.ones(4, "float32"))), self.weight(builder)
        )
        after = converted(builder.build(y))
        assert set(operand_dtypes(after, "timestep_embedding")) == {"float32"}
        assert dtypes(after, "cast") == ["bfloat16", "bfloat16", "float32"]  # the weight, the embedding, the result

    @staticmethod
    def weight(builder, rows=8, columns=8):
        return builder.parameter(f"w{len(builder.parameters)}", (rows, columns))

    def test_a_softmax_written_out_reads_scores_in_float32(self):
        builder = Builder()
        q, k, v = (builder.input(name, (2, 5, 8)) for name in "qkv")
        mask = builder.input("mask", (2, 1, 5))
        scores = ops.matmul(q, k, transpose_y=True) * 0.5 + (1.0 - mask) * -1e9
        after = converted(builder.build(ops.matmul(ops.softmax(scores), v)), "float16")
        assert dtypes(after, "matmul") == ["float16", "float16"]
        for name in ("softmax", "multiply", "subtract", "add"):
            assert {*dtypes(after, name), *operand_dtypes(after, name)} == {"float32"}
        assert after.counts()["cast"] == 3 + 1 + 1 + 1  # q, k and v; the scores; the weights; the result

    def test_a_norm_written_out_keeps_its_statistics_in_float32(self):
        builder = Builder()
        y = ops.matmul(builder.input("x", (3, 8)), self.weight(builder))
        inverse = ops.rsqrt(ops.mean(y * y, axes=(1,), keepdims=True) + 1e-6)
        after = converted(builder.build(ops.matmul(y * inverse * builder.parameter("s", (8,)), self.weight(builder))))
        for name in ("mean", "add", "rsqrt"):
            assert {*dtypes(after, name), *operand_dtypes(after, name)} == {"float32"}
        assert dtypes(after, "multiply") == ["float32", "float32", "bfloat16"]  # the square, the norm, its scale
        assert dtypes(after, "matmul") == ["bfloat16", "bfloat16"]

    def test_what_is_wide_does_not_spread_along_the_residual_stream(self):
        builder = Builder()
        x = ops.matmul(builder.input("x", (6, 8)), self.weight(builder))
        places = ops.sin(builder.input("angles", (6, 8)))
        stream = x + places
        for _ in range(2):
            stream = stream + ops.matmul(ops.layer_norm(stream), self.weight(builder))
        after = converted(builder.build(stream))
        assert dtypes(after, "add") == ["float32", "bfloat16", "bfloat16"]
        assert dtypes(after, "layer_norm") == ["bfloat16", "bfloat16"]

    @pytest.mark.parametrize("name", ["cumsum", "sum", "log_softmax", "exp", "greater"])
    def test_what_would_suffer_is_computed_in_float32(self, name):
        builder = Builder()
        y = ops.matmul(builder.input("x", (3, 8)), self.weight(builder))
        function = {
            "cumsum": lambda: ops.cumsum(y, axis=1),
            "sum": lambda: ops.sum(y, axes=(1,)),
            "log_softmax": lambda: ops.log_softmax(y),
            "exp": lambda: ops.exp(y),
            "greater": lambda: ops.greater(y, 0.1),
        }[name]
        after = converted(builder.build(function()))
        assert set(operand_dtypes(after, name)) == {"float32"}

    def test_opaque_nodes_and_branches_keep_their_types(self):
        inner = Builder()
        z = inner.input("z", (3, 8))
        branch = inner.build(ops.matmul(z, z, transpose_y=True))
        builder = Builder()
        y = ops.matmul(builder.input("x", (3, 8)), self.weight(builder))
        yes = builder.input("yes", (1,), "bool")
        opaque = ops.paddle(y, operator="pd_op.unknown", types=(((3, 8), "float32"),))
        result = ops.conditional(yes, y, then=branch, otherwise=branch)
        after = converted(builder.build(result, opaque))
        assert operand_dtypes(after, "paddle") == dtypes(after, "conditional") == ["float32"]
        (node,) = (node for node in after.nodes if node.op.name == "conditional")
        assert dtypes(node.then, "matmul") == ["bfloat16"]

    def test_other_dtypes_are_left_alone(self):
        builder = Builder()
        x, n = builder.input("x", (3, 8), "float64"), builder.input("n", (3,), "int32")
        graph = builder.build(ops.matmul(x, builder.parameter("w", (8, 8), "float64")), n * n)
        assert converted(graph) is graph

    def test_a_second_time_changes_nothing(self):
        builder = Builder()
        graph = converted(builder.build(ops.matmul(builder.input("x", (3, 8)), self.weight(builder))))
        assert converted(graph) is graph

    def test_after_the_prologue_and_the_strides(self):
        """Not where it belongs, but right there too: views and stores are kept."""
        builder = Builder()
        x = ops.transpose(builder.input("x", (8, 3)), permutation=(1, 0))
        y = ops.transpose(ops.linear(x, ops.exp(self.weight(builder))), permutation=(1, 0))
        graph, _ = run_passes(builder.build(ops.softmax(y) * 2.0))
        after = converted(graph, names=["weight_prologue"])
        (node,) = (node for node in after.nodes if node.op.name == "linear")
        assert node.views[0] is not None
        assert node.stores[0] is not None
        assert dtypes(after.prologue, "cast") == ["bfloat16"]
        arrays = [random_array(value.type, 0) for value in (*graph.inputs, *graph.weights)]
        found, wanted = (evaluate(each, arrays[:1], arrays[1:])[0] for each in (after, graph))
        numpy.testing.assert_allclose(found, wanted, rtol=0.05, atol=0.05)


class TestLargeNumbers:
    @pytest.mark.parametrize("dtype", NARROW)
    @pytest.mark.parametrize("number", [LOWEST, -LOWEST, 1e9, -math.inf])
    @pytest.mark.parametrize("whole", [True, False])
    def test_a_finite_constant_stays_finite(self, dtype, number, whole):
        builder = Builder()
        y = ops.matmul(builder.input("x", (3, 8)), TestPolicy.weight(builder))
        array = numpy.where(numpy.eye(3, 8), 0, number) if whole else number
        after = converted(builder.build(ops.maximum(y, builder.constant(array, "float32"))), dtype)
        (node,) = (node for node in after.nodes if node.op.name == "constant")
        narrow = node.attributes["value"].array
        assert narrow.dtype == numpy_dtype(dtype)
        bound = float(limits(dtype).max)
        expected = max(min(number, bound), -bound) if math.isfinite(number) else number
        assert narrow.astype("float64").reshape(-1)[-1] == pytest.approx(expected, rel=2**-8)

    @pytest.mark.parametrize("dtype", NARROW)
    def test_full_too(self, dtype):
        builder = Builder()
        x = ops.matmul(builder.input("x", (3, 8)), TestPolicy.weight(builder))
        lowest = builder.apply(
            op_named("full"),
            (),
            {"shape": (3, 8), "value": LOWEST, "dtype": "float32"},
        )
        after = converted(builder.build(ops.maximum(x, lowest)), dtype)
        (node,) = (node for node in after.nodes if node.op.name == "full")
        assert (node.output.dtype, node.attributes["value"]) == (dtype, float(limits(dtype).min))

    @pytest.mark.parametrize("dtype", NARROW)
    @pytest.mark.parametrize("filler", [LOWEST, -1e9, -1e4])
    def test_a_mask_that_hides_a_whole_row_gives_numbers(self, dtype, filler):
        """Padding alone: all keys have the same weight, in float32 as in float16; never nan."""
        builder = Builder()
        q, k, v = (builder.input(name, (2, 5, 1, 8)) for name in "qkv")
        mask = (1.0 - builder.input("padding", (2, 1, 1, 5))) * filler
        graph = builder.build(ops.attention(q, k, v, mask, scale=0.3))
        after = converted(graph, dtype)
        (node,) = (node for node in after.nodes if node.op.name == "attention")
        assert node.operand("mask").dtype == "float32"
        arrays = [random_array(value.type, seed) for seed, value in enumerate(graph.inputs)]
        arrays[3] = numpy.array([0, 0, 0, 0, 0, 1, 0, 1, 1, 0], "float32").reshape(2, 1, 1, 5)
        found, wanted = (evaluate(each, arrays)[0] for each in (after, graph))
        numpy.testing.assert_allclose(found, wanted, atol=0.03)


def test_the_place_of_the_conversion():
    names = converting(default(), "bfloat16")
    assert names[names.index("convert_to_bfloat16") + 1] == "weight_prologue"
    assert [name for name in names if name != "convert_to_bfloat16"] == default()
    assert converting(["simplify"], "float16") == ["simplify", "convert_to_float16"]
    with pytest.raises(PassError, match="float8"):
        converting(default(), "float8_e4m3fn")


# Casts of the default passes' graph in a narrow dtype: of inputs, of results, and of the timestep's embedding.
BORDER = {
    "dit": 1 + 1 + 1,
    "transformer_2d": 2 + 1,
    "pixart": 2 + 1 + 1,
    "sd3": 3 + 1 + 1,
    "large_dit": 1 + 1 + 1,
    "unet": 2 + 1 + 1,
    "vae_decode": 1 + 1,
    "clip_text": 2,
    "clip_text_projection": 5,
    "t5_encoder": 1,
}


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda builder: builder.__name__)
def test_a_model(builder):
    """The graph is that of float32 but for the border's casts, and about as exact as each operation rounded can be."""
    found = model_graph(builder)
    exact = evaluate(found.graph, found.inputs, found.weights, arithmetic="float64")
    for dtype in NARROW:
        after, _ = run_passes(found.graph, converting(default(), dtype), check=True)
        assert parse(str(after)).hash == after.hash
        counts = operations(after)
        counts.subtract(operations(found.after))
        assert {name: count for name, count in counts.items() if count} == {"cast": BORDER[builder.__name__]}
        masks = {node.operand("mask") for node in after.nodes if node.op.name == "attention"}
        assert {value.dtype for value in after.parameters if value not in masks} <= {dtype, "int64"}
        results = evaluate(after, found.inputs, found.weights)
        rounded = rounded_by_operation(found.graph, found.inputs, found.weights, dtype)
        floating = [number for number, wanted in enumerate(exact) if wanted.dtype.kind == "f"]
        errors, plain = (
            numpy.array([error(each[number], exact[number]) for number in floating]) for each in (results, rounded)
        )
        assert (errors**2).mean() <= 1.2**2 * (plain**2).mean()
        assert errors.max() <= 6 * float(limits(dtype).eps)


def operations(graph):
    """How many nodes there are of each op, those in groups among them: a cast may join a group, or make one."""
    return Counter(node.op.name for node in graph.walk() if node.op.name != "group")


def error(found, wanted):
    return float(numpy.linalg.norm(found.astype("float64") - wanted) / numpy.linalg.norm(wanted))


def rounded_by_operation(graph, inputs, weights, dtype):
    """As a framework runs a model that was cast to `dtype`: each operation's result is rounded, weights and inputs are.

    Angles of embeddings are computed in float32 there too, and numbers beyond the dtype's are its largest.
    """
    wide = angles(graph)
    bound = float(limits(dtype).max)

    def narrow(value, array):
        if value.dtype not in FLOATING or value in wide:
            return array
        return numpy.clip(array, -bound, bound).astype(numpy_dtype(dtype)).astype(array.dtype)

    given = zip((*graph.inputs, *graph.parameters), (*inputs, *weights), strict=True)
    values = {value: narrow(value, array) for value, array in given}
    for node in graph.nodes:
        results = evaluate_node(node, [None if value is None else values[value] for value in node.inputs])
        values.update((value, narrow(value, array)) for value, array in zip(node.outputs, results, strict=True))
    return [values[value] for value in graph.outputs]


def angles(graph):
    """All values that a sine or cosine is computed from."""
    found = set()
    for node in reversed(graph.nodes):
        if node.op.name in ("sin", "cos") or not found.isdisjoint(node.outputs):
            found.update(value for value in node.inputs if value is not None)
    return found
