"""Results whose dims depend on data: opaque nodes have them, opaque nodes read them, and no pass touches them."""

import json

import numpy
import paddle
import pytest
from graphs import imported

from jitinfer.errors import GraphError
from jitinfer.frontend.importing import import_program
from jitinfer.frontend.tracing import trace
from jitinfer.graph import Kind, TensorType, evaluate, parse
from jitinfer.passes import default, run_passes


def x(*shape):
    return paddle.randn(list(shape))


def of_lists(a):
    rows, columns = paddle.split(paddle.nonzero(a), 2, axis=1)
    grids = paddle.meshgrid(rows.flatten(), columns.flatten())
    return grids[1] + 1, paddle.concat([rows, columns * 2], axis=0)


def in_a_branch(a):
    if a.sum() > 0:  # noqa: SIM108
        y = paddle.masked_select(a, a > 0)
    else:
        y = a.flatten()
    return y * 2.0


def in_a_loop(a):
    count = paddle.zeros([], "int32")
    chosen = paddle.masked_select(a, a > 0)
    while count < 3 + chosen.astype("int32").sum() * 0:
        chosen = chosen * 2.0
        count = count + 1
    return chosen


# What is computed, and the number of values whose dims are not known.
FUNCTIONS = {
    "unique": (lambda a: paddle.unique(a) * 2.0, 2),
    "nonzero": (lambda a: paddle.nonzero(a)[:, 0] + 1, 3),
    "masked_select": (lambda a: (paddle.masked_select(a, a > 0).sum() + a).exp(), 1),
    "range of a tensor": (lambda a: paddle.arange(a.sum().astype("int64")).astype("float32") * 0.5, 3),
    "its own shape": (lambda a: a + paddle.shape(paddle.unique(a))[0].astype("float32"), 1),
    "indexing by a mask": (lambda a: a[a > 0] + 1, None),
    "lists": (of_lists, None),
    "a branch": (in_a_branch, None),
    "a loop": (in_a_loop, None),
    "full_like": (lambda a: paddle.full_like(paddle.unique(a), 3.0).sum() * a, 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_dims_that_depend_on_data(name):
    function, count = FUNCTIONS[name]
    graph = imported(function, {"a": x(3, 4)}).graph
    graph.check()
    unknown = {value for node in graph.nodes for value in node.outputs if not value.type.known}
    assert unknown
    assert count in (None, len(unknown))
    assert all(
        node.op.kind is Kind.OPAQUE for node in graph.nodes if unknown.intersection((*node.inputs, *node.outputs))
    )
    again = parse(str(graph))
    assert again.hash == graph.hash
    assert [value.type for value in again.outputs] == [value.type for value in graph.outputs]
    assert graph.flops >= 0
    with pytest.raises(GraphError, match="has no reference: only Paddle can run it"):
        evaluate(graph, [numpy.ones((3, 4), "float32")])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_passes_leave_them_alone(name):
    graph = imported(FUNCTIONS[name][0], {"a": x(3, 4)}).graph
    for passes in [[each] for each in sorted(set(default()))] + [None]:
        after, _ = run_passes(graph, passes, check=True)
        opaque = [[node for node in each.nodes if node.op.kind is Kind.OPAQUE] for each in (graph, after)]
        for old, new in zip(*opaque, strict=True):
            assert (new.op, new.attributes) == (old.op, old.attributes)
            assert [value.type for value in new.outputs] == [value.type for value in old.outputs]
        assert parse(str(after)).hash == after.hash


def test_what_is_known_again_is_computed_by_the_graph():
    graph = imported(lambda a: (paddle.masked_select(a, a > 0).sum() + a).exp(), {"a": x(3, 4)}).graph
    assert graph.counts() == {"constant": 2, "greater": 1, "paddle": 2, "add": 1, "exp": 1}
    assert graph.outputs[0].type == TensorType((3, 4), "float32")


def test_an_opaque_node_says_where_each_result_goes():
    """One number for each result of the operator: 0 for none, and those of a list."""
    graph = imported(of_lists, {"a": x(3, 4)}).graph
    layouts = {
        node.operator: json.loads(node.attributes["attributes"])["results"]
        for node in graph.nodes
        if node.op.name == "paddle"
    }
    assert (layouts["pd_op.split_with_num"], layouts["pd_op.meshgrid"], layouts["pd_op.nonzero"]) == ([2], [2], [1])
    inverse = imported(lambda a: paddle.unique(a, return_inverse=True)[1], {"a": x(3, 4)}).graph
    (node,) = inverse.nodes
    assert json.loads(node.attributes["attributes"])["results"] == [0, 0, 1, 0]


def test_dims_that_follow_from_inputs_are_known_for_each_call():
    """An opaque operator between inputs with dynamic dims: its own result is not known, and so is what reads it."""
    found = trace(lambda tensors: paddle.linalg.inv(tensors[0]) * 2.0 + tensors[0], [TensorType((-1, 3, 3), "float32")])
    graph = import_program(found.program, [(2, 3, 3)])
    assert graph.inputs[0].shape == (2, 3, 3)
    assert [str(value.type) for value in graph.outputs] == ["float32[?, 3, 3]"]
    assert graph.counts()["add"] == 0


def test_what_is_no_tensor_is_refused():
    def function(a):
        array = paddle.tensor.create_array("float32")
        array = paddle.tensor.array_write(a, paddle.zeros([1], "int64"), array)
        return paddle.tensor.array_read(array, paddle.zeros([1], "int64"))

    found = trace(lambda tensors: function(*tensors), [TensorType((2, 3), "float32")])
    with pytest.raises(GraphError, match="is no tensor"):
        import_program(found.program)
