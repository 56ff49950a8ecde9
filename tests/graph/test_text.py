"""The text of a graph, and the hash that is of its content alone."""

import dataclasses
import os
import subprocess
import sys

import numpy
import pytest

from jitinfer.graph import Builder, Constant, Graph, Origin, Value, View, op_named, ops


def graph(names=("x", "w"), dtype="float32", epsilon=1e-5, factor=0.5, axis=-1, swapped=False, origin=None, table=None):
    builder = Builder()
    builder.origin = origin or Origin()
    x, w = builder.input(names[0], (4, 4), dtype), builder.parameter(names[1], (4, 4), dtype)
    y = ops.softmax(x @ w if not swapped else w @ x, axis=axis) * factor
    y = ops.layer_norm(y, epsilon=epsilon)
    array = numpy.arange(16.0).reshape(4, 4) if table is None else table
    return builder.build(y + builder.constant(array, dtype))


def test_text():
    builder = Builder()
    x, w = builder.input("x", (2, 4)), builder.parameter("w", (4, 8))
    builder.origin = Origin("model.py:41", "/Blk/Linear")
    y = ops.linear(x, w, residual=builder.input("r", (2, 8)), activation="gelu")
    builder.origin = Origin()
    built = builder.build(y * 0.5)
    assert str(built) == (
        "graph(%x: float32[2, 4], %r: float32[2, 8]) parameters(%w: float32[4, 8]) {\n"
        '  %linear_0: float32[2, 8] = linear(%x, %w, residual=%r, activation="gelu")  # model.py:41 in /Blk/Linear\n'
        "  %constant_0: float32[] = constant(value=float32[](0.5,))\n"
        "  %multiply_0: float32[2, 8] = multiply(%linear_0, %constant_0)\n"
        "  return %multiply_0\n"
        "}\n"
    )


def test_views_and_stores_are_written():
    builder = Builder()
    x = builder.input("x", (4, 6))
    node = builder.add_node(op_named("exp"), [x.value], {}, [View((6, 4), (1, 6))])
    node = dataclasses.replace(node, stores=(View((6, 4), (1, 6)),), outputs=(Value(x.type, "y"),))
    text = str(Graph((x.value,), (), (node,), node.outputs))
    assert "  %y[6, 4; 1, 6; 0]: float32[4, 6] = exp(%x[6, 4; 1, 6; 0])\n" in text


def test_large_constants_stand_at_the_end():
    builder = Builder()
    x = builder.input("x", (32,))
    built = builder.build(x + builder.constant(numpy.arange(32), "float32"))
    digest = built.nodes[0].value.digest[:12]
    assert f"constant(value=#{digest})" in str(built)
    assert f'  #{digest} = float32[32] "AAAAAAAAgD8' in str(built)


def test_the_hash_is_of_what_the_graph_means():
    reference = graph()
    assert graph().hash == reference.hash
    assert graph(names=("a", "b")).hash == reference.hash
    assert graph(origin=Origin("model.py:1", "/Blk")).hash == reference.hash


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "bfloat16"},
        {"epsilon": 1e-6},
        {"factor": 0.25},
        {"axis": 0},
        {"swapped": True},
        {"table": numpy.ones((4, 4))},
    ],
)
def test_each_change_changes_the_hash(change):
    assert graph(**change).hash != graph().hash


def test_zeros_of_both_signs_and_outputs_and_views_count():
    built = graph()
    assert dataclasses.replace(built, outputs=built.outputs * 2).hash != built.hash
    builder = Builder()
    x = builder.input("x", (4, 4))
    hashes = set()
    for view in (None, View((4, 4), (1, 4)), View((4, 4), (0, 1)), View((4, 4), (0, 1), 4)):
        node = builder.add_node(op_named("exp"), [x.value], {}, [view])
        for stores in ((), (View((4, 4), (1, 4)),)):
            hashes.add(Graph((x.value,), (), (dataclasses.replace(node, stores=stores),), node.outputs).hash)
    assert len(hashes) == 8
    assert Constant(numpy.array(0.0)) != Constant(numpy.array(-0.0))


def test_the_prologue_counts():
    inner = Builder()
    turned = inner.build(ops.transpose(inner.input("w", (4, 4)), permutation=(1, 0)))
    inner = Builder()
    scaled = inner.build(inner.input("w", (4, 4)) * 2.0)
    hashes = {dataclasses.replace(graph(), prologue=prologue).hash for prologue in (None, turned, scaled)}
    assert len(hashes) == 3


def test_the_hash_is_the_same_in_another_process():
    program = "import sys; sys.path.insert(0, 'tests/graph'); import test_text; print(test_text.graph().hash)"
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == graph().hash
