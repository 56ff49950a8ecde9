"""What is computed of weights, in pieces that have nothing in common."""

import numpy
import pytest

from jitinfer.graph import Builder, evaluate, ops
from jitinfer.lowering.prologue import pieces
from jitinfer.passes import run_passes


def projections(blocks):
    """Three projections of each of some blocks, and a bias that is used as it is."""
    builder = Builder()
    x = builder.input("x", (3, 8))
    for block in range(blocks):
        parts = [ops.linear(x, builder.parameter(f"w{block}{i}", (8, 8))) for i in range(3)]
        x = ops.layer_norm(parts[0] * parts[1] + parts[2] + builder.parameter(f"b{block}", (8,)))
    graph, _ = run_passes(builder.build(x), ["merge_linear", "weight_prologue"], check=True)
    return graph


@pytest.mark.parametrize("blocks", [1, 3])
def test_pieces_are_apart_and_alike(blocks):
    graph = projections(blocks)
    found = pieces(graph)
    assert len(found.computed) == blocks
    assert len({piece.graph.hash for piece in found.computed}) == 1
    assert [graph.weights[weight].name for weight, _ in found.direct] == [f"b{block}" for block in range(blocks)]
    for piece in found.computed:
        piece.graph.check()


def test_together_they_are_the_prologue():
    builder = Builder()
    x = builder.input("x", (4, 4))
    a, b, c = (builder.parameter(name, (4, 4)) for name in "abc")
    table = builder.constant(numpy.arange(4), "float32")
    shared = a * table
    graph = builder.build(x @ (shared + b), x @ (shared * 2.0), x @ (c * table), x + c)
    graph, _ = run_passes(graph, ["weight_prologue"], check=True)
    found = pieces(graph)
    assert [len(piece.parameters) for piece in found.computed] == [2, 1]
    weights = [numpy.random.default_rng(i).standard_normal((4, 4)).astype("float32") for i in range(3)]
    expected = evaluate(graph.prologue, weights)
    actual = {parameter: weights[weight] for weight, parameter in found.direct}
    for piece in found.computed:
        results = evaluate(piece.graph, [weights[i] for i in piece.weights])
        actual.update(zip(piece.parameters, results, strict=True))
    assert sorted(actual) == list(range(len(graph.parameters)))
    for i, wanted in enumerate(expected):
        numpy.testing.assert_array_equal(actual[i], wanted)


def test_without_a_prologue_all_are_direct():
    builder = Builder()
    graph = builder.build(builder.input("x", (4,)) + builder.parameter("p", (4,)))
    assert pieces(graph).direct == ((0, 0),)
    assert pieces(graph).computed == ()
