"""Building, checking and evaluating graphs."""

import dataclasses

import ml_dtypes
import numpy
import pytest

from jitinfer.errors import GraphError
from jitinfer.graph import Builder, Graph, Node, TensorType, Value, View, evaluate, op_named, ops


def small():
    builder = Builder()
    x, w = builder.input("x", (2, 3)), builder.parameter("w", (3, 4))
    return builder.build(ops.softmax(x @ w * 0.5))


def test_evaluation_in_float32_and_float64():
    graph = small()
    x, w = numpy.random.default_rng(0).standard_normal((2, 3)), numpy.random.default_rng(1).standard_normal((3, 4))
    x, w = x.astype("float32"), w.astype("float32")
    scores = (x.astype("float64") @ w) * 0.5
    expected = numpy.exp(scores) / numpy.exp(scores).sum(-1, keepdims=True)
    (narrow,), (wide,) = evaluate(graph, [x], [w]), evaluate(graph, [x], [w], arithmetic="float64")
    assert (narrow.dtype, wide.dtype) == (numpy.float32, numpy.float64)
    numpy.testing.assert_allclose(wide, expected, rtol=1e-14)
    numpy.testing.assert_allclose(narrow, expected, rtol=1e-6)


def test_bfloat16_is_rounded_once_for_each_op():
    builder = Builder()
    x = builder.input("x", (4,), "bfloat16")
    graph = builder.build(x * x + x)
    array = numpy.array([1.01, 3.3, -7.7, 1e3]).astype(ml_dtypes.bfloat16)
    wide = array.astype(numpy.float32)
    product = (wide * wide).astype(ml_dtypes.bfloat16).astype(numpy.float32)
    (result,) = evaluate(graph, [array])
    assert result.dtype == ml_dtypes.bfloat16
    expected = (product + wide).astype(ml_dtypes.bfloat16)
    assert result.tobytes() == expected.tobytes()  # other libraries in the process change how NumPy compares bfloat16


@pytest.mark.parametrize("wrong", [numpy.zeros((2, 3)), numpy.zeros((3, 2), "float32"), numpy.zeros((2, 3), "int64")])
def test_arrays_of_other_types_are_refused(wrong):
    with pytest.raises(GraphError, match="%x: float32"):
        evaluate(small(), [wrong], [numpy.zeros((3, 4), "float32")])


def test_operands_that_do_not_fit_name_the_op_and_the_shapes():
    builder = Builder()
    with pytest.raises(GraphError, match=r"matmul\(float32\[2, 3\], float32\[4, 5\]\)"):
        builder.input("x", (2, 3)) @ builder.input("y", (4, 5))
    with pytest.raises(GraphError, match="no attribute 'axes'"):
        ops.softmax(builder.input("z", (2,)), axes=1)
    with pytest.raises(GraphError, match="another graph"):
        builder.input("a", (2,)) + Builder().input("b", (2,))


def test_views_of_inputs_and_stores_of_results():
    builder = Builder()
    x = builder.input("x", (4, 6))
    transposed = View((6, 4), (1, 6))
    node = builder.add_node(op_named("exp"), [x.value], {}, [transposed])
    assert node.output.shape == (6, 4)
    stored = dataclasses.replace(node, outputs=(x.value.__class__(x.type, "y"),), stores=(transposed,))
    array = numpy.random.default_rng(0).standard_normal((4, 6)).astype("float32")
    for nodes, expected in (((node,), numpy.exp(array.T)), ((stored,), numpy.exp(array))):
        graph = Graph((x.value,), (), nodes, nodes[0].outputs)
        graph.check()
        numpy.testing.assert_array_equal(evaluate(graph, [array])[0], expected)


def test_a_view_that_leaves_its_buffer_is_refused():
    builder = Builder()
    x = builder.input("x", (4,))
    node = builder.add_node(op_named("exp"), [x.value], {}, [View((4,), (2,))])
    with pytest.raises(GraphError, match="leaves its buffer"):
        evaluate(Graph((x.value,), (), (node,), node.outputs), [numpy.zeros(4, "float32")])


def test_a_store_that_misses_elements_is_refused():
    builder = Builder()
    x = builder.input("x", (4,))
    node = builder.add_node(op_named("exp"), [x.value], {})
    node = dataclasses.replace(node, stores=(View((4,), (0,)),))
    with pytest.raises(GraphError, match="does not write every element"):
        evaluate(Graph((x.value,), (), (node,), node.outputs), [numpy.zeros(4, "float32")])


def test_check_finds_what_does_not_fit():
    graph = small()
    first, *rest = graph.nodes
    with pytest.raises(GraphError, match="before it is computed"):
        dataclasses.replace(graph, nodes=(*rest, first)).check()
    wrong = dataclasses.replace(first, outputs=(Value(first.output.type.with_shape((9, 9)), first.output.name),))
    with pytest.raises(GraphError, match="gives float32"):
        dataclasses.replace(graph, nodes=(wrong, *rest)).check()
    with pytest.raises(GraphError, match="is not computed"):
        dataclasses.replace(graph, nodes=graph.nodes[:1]).check()
    twin = Node(first.op, first.inputs, first.attributes, (Value(first.output.type, first.output.name),))
    with pytest.raises(GraphError, match="one name"):
        dataclasses.replace(graph, nodes=(*graph.nodes, twin)).check()


def test_a_prologue_computes_the_parameters():
    inner = Builder()
    weight = inner.input("weight", (4, 3))
    prologue = inner.build(ops.transpose(weight, permutation=(1, 0)))
    graph = dataclasses.replace(small(), prologue=prologue)
    graph.check()
    x, w = numpy.ones((2, 3), "float32"), numpy.arange(12, dtype="float32").reshape(4, 3)
    (actual,), (expected,) = evaluate(graph, [x], [w]), evaluate(small(), [x], [numpy.ascontiguousarray(w.T)])
    numpy.testing.assert_array_equal(actual, expected)
    with pytest.raises(GraphError, match="prologue"):
        dataclasses.replace(graph, prologue=small()).check()


def test_dims_that_are_not_known_are_for_opaque_nodes_and_outputs():
    builder = Builder()
    chosen = ops.paddle(builder.input("x", (4,)), operator="pd_op.unique", types=(((-1, 2), "float32"),))
    again = ops.paddle(chosen, operator="pd_op.scale", types=(((-1, 2), "float32"),))
    graph = builder.build(chosen, again)
    assert str(graph.outputs[0].type) == "float32[?, 2]"
    assert graph.flops == 0
    assert [node.op.bytes_moved(node.input_types(), [each.type for each in node.outputs]) for node in graph.nodes] == [
        16,
        0,
    ]
    with pytest.raises(GraphError, match=r"exp\(float32\[\?, 2\]\): it cannot read dims that vary"):
        ops.exp(chosen)
    reading = Node(op_named("exp"), (chosen.value,), {}, (Value(chosen.type, "y"),))
    with pytest.raises(GraphError, match="dims that vary"):
        dataclasses.replace(graph, nodes=(*graph.nodes, reading)).check()
    given = Value(chosen.type, "given")
    with pytest.raises(GraphError, match="not known"):
        dataclasses.replace(graph, inputs=(*graph.inputs, given)).check()
    with pytest.raises(GraphError, match="not known"):
        dataclasses.replace(graph, parameters=(given,)).check()


def test_control_flow_has_no_dims_that_vary():
    inner = Builder()
    x = inner.input("x", (4,))
    chosen = ops.paddle(x, operator="pd_op.unique", types=(((-1,), "float32"),))
    then, otherwise = inner.build(chosen), inner.build(chosen)
    builder = Builder()
    condition, y = builder.input("condition", (), "bool"), builder.input("y", (4,))
    with pytest.raises(GraphError, match="results with dims that vary"):
        ops.conditional(condition, y, then=then, otherwise=otherwise)


def test_the_size_of_dims_that_are_not_known_is_no_number():
    kind = TensorType((2, -1), "float32")
    for ask in (lambda: kind.size, lambda: kind.nbytes):
        with pytest.raises(GraphError, match="nobody knows"):
            ask()
