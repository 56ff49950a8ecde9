"""Products in parts of their sums: which are asked about, what takes their places, and who is believed."""

import itertools
import math
from dataclasses import replace

import numpy
import pytest
from gpu import device_target, needs_gpu
from product_stack import stack

from jitinfer.errors import KernelError
from jitinfer.graph import Builder, Graph, View, ops
from jitinfer.graph.evaluation import evaluate
from jitinfer.graph.types import TensorType, numpy_dtype
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering import FirstThatCompiles, compile_graph
from jitinfer.lowering.lower import Outline, located
from jitinfer.lowering.parts import LEAST_DEPTH, LEAST_SHARE, answered, questions, replaced
from jitinfer.runtime import Device, check
from jitinfer.runtime.model import Session

TARGET = Target.named(90)
ROWS, DEPTH, WIDTH = 256, 2048, 384


def block(rows=ROWS, depth=DEPTH, width=WIDTH, dtype="bfloat16", bias=True, transposed=True, **attributes):
    """A product [2, rows / 2, depth] by [depth, width], and the norm of the gated residual behind it."""
    builder = Builder()
    x = builder.input("x", (2, rows // 2, depth), dtype)
    weight = builder.parameter("w", (width, depth) if transposed else (depth, width), dtype)
    y = ops.linear(
        x, weight, builder.parameter("b", (width,), dtype) if bias else None, transpose_weight=transposed, **attributes
    )
    return builder, y, gated(builder, y)


def gated(builder, y, residual=None):
    """Both results of the norm of y."""
    residual = residual if residual is not None else builder.input("r", y.shape, y.type.dtype)
    row = (y.shape[0], 1, y.shape[-1])
    gate, scale, shift = (builder.input(name, row, y.type.dtype) for name in ("gate", "scale", "shift"))
    return ops.gated_residual_adaptive_layer_norm(y, residual, gate, scale, shift, epsilon=1e-6)


def asked(graph, most=2, target=TARGET):
    return questions(graph.nodes, graph.outputs, target, most)


def in_parts(graph, parts):
    return Graph(graph.inputs, graph.parameters, tuple(replaced(graph.nodes, parts)), graph.outputs)


def results_of(graph, seed=0):
    """In float64."""
    generator = numpy.random.default_rng(seed)
    given = [generator.standard_normal(v.shape).astype(numpy_dtype(v.dtype)) for v in (*graph.inputs, *graph.weights)]
    return evaluate(graph, given[: len(graph.inputs)], given[len(graph.inputs) :], arithmetic="float64")


def agree(graph, other):
    """Whether they are equal but for the order of their sums in float64."""
    for one, two in zip(results_of(graph), results_of(other), strict=True):
        numpy.testing.assert_allclose(one, two, rtol=0, atol=1e-12 * numpy.abs(one).max())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_what_takes_their_places_is_equal(bias, transposed, dtype):
    builder, _, results = block(bias=bias, transposed=transposed, dtype=dtype)
    graph = builder.build(*results)
    found = asked(graph, most=4)
    assert [(each.product, each.norm, each.parts) for each in found] == [(0, 1, 2), (0, 1, 4)]  # 2048 / 3 is no number
    for each in found:
        changed = in_parts(graph, {each.product: each.parts})
        changed.check()
        product, norm = changed.nodes
        assert product.output.type == TensorType((each.parts, *graph.nodes[0].output.shape), "float32")
        assert [product.origin, norm.origin] == [node.origin for node in graph.nodes]
        assert norm.outputs == graph.nodes[1].outputs
        agree(graph, changed)


def test_operands_that_are_read_through_views():
    """x and the weight are parts of other tensors; the norm reads the product with its rows in another order, and is
    written to a part of a tensor."""
    builder, _, results = block(rows=256)
    product, norm = builder.build(*results).nodes
    x, w, b = product.inputs
    wide_x = builder.input("wide_x", (256, DEPTH + 64), "bfloat16").value
    wide_w = builder.parameter("wide_w", (WIDTH, DEPTH + 128), "bfloat16").value
    wide_b = builder.parameter("wide_b", (3 * WIDTH,), "bfloat16").value
    product = replace(
        product,
        inputs=(wide_x, wide_w, wide_b),
        views=(
            View((2, 128, DEPTH), (128 * (DEPTH + 64), DEPTH + 64, 1), 64),
            View((WIDTH, DEPTH), (DEPTH + 128, 1), 128),
            View((WIDTH,), (1,), WIDTH),
        ),
    )
    order = View((2, 128, WIDTH), (WIDTH, 2 * WIDTH, 1), 0)
    norm = replace(norm, views=(order, *(norm.view(i) for i in range(1, 5))))
    inputs = tuple(wide_x if value is x else value for value in builder.build(*results).inputs)
    graph = Graph(inputs, (wide_w, wide_b), (product, norm), norm.outputs)
    assert {w, b}.isdisjoint(graph.parameters)
    (question,) = asked(graph)
    agree(graph, in_parts(graph, {question.product: 2}))


def shared(kept):
    builder, y, results = block()
    return builder.build(*results, *([y] if kept else [ops.silu(y)]))


def residual_of_its_own():
    builder = Builder()
    x = builder.input("x", (2, ROWS // 2, DEPTH), "bfloat16")
    y = ops.linear(x, builder.parameter("w", (DEPTH, WIDTH), "bfloat16"))
    return builder.build(*gated(builder, y, y))


def with_residual():
    builder = Builder()
    x, r = (builder.input(name, (2, ROWS // 2, size), "bfloat16") for name, size in (("x", DEPTH), ("s", WIDTH)))
    y = ops.linear(x, builder.parameter("w", (DEPTH, WIDTH), "bfloat16"), None, r)
    return builder.build(*gated(builder, y))


def spread_residual():
    builder = Builder()
    x = builder.input("x", (2, ROWS // 2, DEPTH), "bfloat16")
    y = ops.linear(x, builder.parameter("w", (DEPTH, WIDTH), "bfloat16"))
    return builder.build(*gated(builder, y, builder.input("r", (1, 1, WIDTH), "bfloat16")))


def not_rows():
    """The norm reads the product's columns as its rows."""
    builder, _, results = block(rows=2 * WIDTH)
    graph = builder.build(*results)
    product, norm = graph.nodes
    view = View((2, WIDTH, WIDTH), (WIDTH * WIDTH, 1, WIDTH), 0)
    norm = replace(norm, views=(view, *(norm.view(i) for i in range(1, 5))))
    return Graph(graph.inputs, graph.parameters, (product, norm), graph.outputs)


def built(**given):
    builder, _, results = block(**given)
    return builder.build(*results)


NOT_ASKED = {
    "read twice": lambda: shared(kept=False),
    "an output": lambda: shared(kept=True),
    "its own residual": residual_of_its_own,
    "an epilogue": with_residual,
    "an activation": lambda: built(activation="gelu_tanh"),
    "a residual of one row": spread_residual,
    "columns as rows": not_rows,
    "few rows": lambda: built(rows=126),
    "enough tiles": lambda: built(rows=512, width=1152),
    "a short sum": lambda: built(depth=2 * LEAST_DEPTH - 128),
    "halves of odd length": lambda: built(depth=2048 + 64),
    "float64": lambda: built(dtype="float64"),
}


@pytest.mark.parametrize("graph", NOT_ASKED.values(), ids=NOT_ASKED)
def test_what_is_not_asked_about(graph):
    assert asked(built())
    assert not asked(graph())


def test_one_part_is_no_question():
    assert not asked(built(), most=1)


class MadeUp:
    """Times by the number of parts; what was asked for."""

    def __init__(self, times):
        self.times = times
        self.most_parts = max(times)
        self.asked = []

    def times_of(self, sequences):
        asked = [work[-2][0] for work in sequences]
        assert {work[-1][0].op.name for work in sequences[1:]} == {"gated_residual_adaptive_layer_norm_of_parts"}
        parts = [product.output.shape[0] if product.unrounded else 1 for product in asked]
        self.asked.append(parts)
        self.before = [[node for node, _ in work[:-2]] for work in sequences]
        return [self.times[each] for each in parts]


@pytest.mark.parametrize(
    ("times", "parts"),
    [
        ({1: 10.0, 2: 8.0, 4: 9.0}, 2),
        ({1: 10.0, 2: 8.0, 4: 7.0}, 4),
        ({1: 10.0, 2: math.inf, 4: 9.0}, 4),
        ({1: 10.0, 2: 10.0 * (1 - LEAST_SHARE) + 0.01, 4: 11.0}, None),
        ({1: 10.0, 2: 10.0 * (1 - LEAST_SHARE) - 0.01, 4: 11.0}, 2),
        ({1: math.inf, 2: 1.0, 4: 1.0}, None),
        ({1: math.inf, 2: math.inf, 4: math.inf}, None),
    ],
)
def test_the_fastest_by_a_margin_is_taken(times, parts):
    graph = built()
    found = asked(graph, most=4)
    choices = dict.fromkeys((*graph.nodes, *itertools.chain(*(each.nodes for each in found))))
    won = answered(graph.nodes, found, choices, MadeUp(times))
    assert [each.parts for each in won] == ([] if parts is None else [parts])


@pytest.fixture(scope="module")
def compiler(worker_pool):
    return Compiler(TARGET, workers=worker_pool)


@pytest.fixture
def compiled(compiler):
    def of(graph, times):
        timer = MadeUp(times)
        model, lowered = compile_graph(graph, TARGET, FirstThatCompiles(compiler), timer=timer)
        check(model.plan)
        return model, lowered, timer

    return of


def nodes_of(lowered):
    return [node for node, _ in lowered.work]


def test_a_model_in_parts(compiled):
    """All three products, or none; the buffers are larger, the steps are of as many nodes."""
    graph = stack()
    plain, lowered, timer = compiled(graph, {1: 10.0, 2: 10.0})
    assert not lowered.parts
    assert timer.asked == [[1, 2]] * 3
    assert [[node.output for node in before] for before in timer.before] == [[nodes_of(lowered)[-2].inputs[0]]] * 2
    model, lowered, _ = compiled(graph, {1: 10.0, 2: 9.0})
    nodes = nodes_of(lowered)
    assert lowered.parts == {place: 2 for place, node in enumerate(nodes) if getattr(node, "unrounded", False)}
    assert len(lowered.parts) == 3
    assert sum(node.op.name.endswith("_of_parts") for node in nodes) == 3
    assert model.plan.arena_bytes > plain.plan.arena_bytes
    assert [node.op for node in nodes] == [node.op for node in Outline(graph, TARGET, lowered.parts).nodes]
    moved = located(
        replace(model.plan, steps=tuple(replace(step, origin="?") for step in model.plan.steps)), graph, TARGET
    )
    assert [step.origin for step in moved.steps] == [step.origin for step in model.plan.steps]


class Refusing(FirstThatCompiles):
    """Has no kernel for some nodes."""

    refused = "gated_residual_adaptive_layer_norm_of_parts"

    def choose(self, nodes, once=()):
        if any(node.op.name == self.refused for node in nodes):
            raise KernelError("nothing compiles")
        return super().choose(nodes, once)


def test_no_model_is_lost_for_want_of_kernels_for_parts(compiler, caplog):
    model, lowered = compile_graph(stack(), TARGET, Refusing(compiler), timer=MadeUp({1: 10.0, 2: 1.0}))
    check(model.plan)
    assert not lowered.parts
    assert "no product is tried in parts" in caplog.text
    assert "nothing compiles" in caplog.text
    chooser = Refusing(compiler)
    chooser.refused = "linear"
    with pytest.raises(KernelError, match="nothing compiles"):
        compile_graph(stack(), TARGET, chooser, timer=MadeUp({1: 10.0, 2: 1.0}))


@needs_gpu
@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("rows", [256, 300])
def test_a_model_in_parts_on_a_device(rows, parts):
    """No less exact than with products that are rounded as a whole, with the same operands, nor than is allowed."""
    graph, target = stack(rows=rows), device_target()
    generator = numpy.random.default_rng(0)
    inputs = [generator.standard_normal(v.shape).astype(numpy_dtype(v.dtype)) for v in graph.inputs]
    weights = [
        (generator.standard_normal(v.shape) / v.shape[0] ** 0.5).astype(numpy_dtype(v.dtype)) for v in graph.parameters
    ]
    exact = evaluate(graph, inputs, weights, arithmetic="float64")
    rounded = evaluate(graph, inputs, weights)
    with Compiler(target) as compiler:
        timer = MadeUp({1: 9.0, **dict.fromkeys(range(2, parts), 9.0), parts: 1.0})
        model, lowered = compile_graph(graph, target, FirstThatCompiles(compiler), timer=timer)
    assert [*lowered.parts.values()] == [parts] * 3
    session = Session(model, weights, Device.of(0))
    for _ in range(3):
        for got, wanted, explained in zip(session.run(inputs), exact, rounded, strict=True):
            error, allowed = (numpy.linalg.norm(each.astype("float64") - wanted) for each in (got, explained))
            assert error <= 1.2 * allowed
    session.close()
