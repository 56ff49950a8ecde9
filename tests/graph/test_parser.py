"""Text -> graph: equal in hash, names and origins; and what is no graph is refused, with its line."""

import dataclasses

import ml_dtypes
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitinfer.errors import GraphError
from jitinfer.graph import Builder, Constant, Graph, Origin, Value, View, op_named, ops, parse
from jitinfer.graph.node import Node
from jitinfer.graph.types import TensorType, dtype_name


def returns(graph):
    """Asserts that the text of `graph` parses to what it was made of."""
    text = str(graph)
    again = parse(text)
    assert again.hash == graph.hash
    assert str(again) == text
    assert [node.origin for node in again.nodes] == [node.origin for node in graph.nodes]


FLOATS = st.floats(width=32)
ARRAYS = st.one_of(
    st.lists(FLOATS, max_size=40).map(lambda v: numpy.array(v, "float32")),
    st.lists(st.floats(), max_size=40).map(lambda v: numpy.array(v, "float64")),
    st.lists(st.floats(width=16), max_size=40).map(lambda v: numpy.array(v, "float32").astype(ml_dtypes.bfloat16)),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40).map(lambda v: numpy.array(v, "int64")),
    st.lists(st.booleans(), max_size=40).map(lambda v: numpy.array(v, "bool")),
    st.lists(st.complex_numbers(width=64), max_size=5).map(lambda v: numpy.array(v, "complex64")),
)


@given(ARRAYS, st.sampled_from(["flat", "row", "column"]))
@settings(max_examples=300, deadline=None)
def test_constants_of_every_dtype(array, form):
    shape = {"flat": array.shape, "row": (1, array.size), "column": (array.size, 1)}[form]
    builder = Builder()
    graph = builder.build(builder.constant(array.reshape(shape)))
    returns(graph)
    constant = parse(str(graph)).nodes[0].value
    assert (constant.type.dtype, constant.array.tobytes()) == (dtype_name(array.dtype), array.tobytes())


@given(st.floats(1e-12, 1e3), st.text(max_size=10), st.text("abc/:._ ", max_size=8).map(str.strip))
@settings(max_examples=200, deadline=None)
def test_attributes(epsilon, name, layer):
    builder = Builder()
    builder.origin = Origin("model.py:3", "/" + layer.replace(" in ", ""))
    x = builder.input("x", (2, 3))
    y = ops.layer_norm(x, epsilon=epsilon)
    opaque = ops.paddle(y, operator=name, types=(((2,), "int64"), ((2, -1), "float32")))
    returns(builder.build(*opaque, ops.clip(y, low=-numpy.inf, high=epsilon)))


def test_absent_operands_several_results_views_stores_and_a_prologue():
    builder = Builder()
    x, w, gate = builder.input("x", (4, 4)), builder.parameter("w", (4, 4)), builder.input("gate", (4, 4))
    values, indices = ops.top_k(ops.linear(x, w, gate=gate, activation="silu"), k=2)
    node = builder.add_node(op_named("exp"), [values.value], {}, [View((2, 4), (1, 2))])
    node = dataclasses.replace(node, stores=(View((2, 4), (1, 2)),), outputs=(Value(values.type, "stored"),))
    inner = Builder()
    turned = inner.build(ops.transpose(inner.input("raw", (4, 4)), permutation=(1, 0)))
    nodes = (*builder.nodes[:-1], node)
    graph = Graph((x.value, gate.value), (w.value,), nodes, (node.output, indices.value), prologue=turned)
    graph.check()
    returns(graph)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("= softmax", "= softmix", "line 2: there is no op 'softmix'"),
        ("(%x, ", "(%y, ", "line 2: %y is not computed before"),
        ("axis=0", "axes=0", "line 2: softmax has no attribute 'axes'"),
        ("float32[2, 3] =", "float32[2, 4] =", "softmax gives float32"),
        ("float32[2, 3] =", "float31[2, 3] =", "line 2: there is no dtype 'float31'"),
        ("return", "retrun", "line 3: expected a value, or 'return', not 'retrun'"),
        ("graph(", "grph(", "line 1: expected 'graph'"),
        ("axis=0", "axis=$", r"line 2: '\$"),
        ("axis=0", "axis=?", r"line 2: expected an attribute, not '\?'"),
        ("x: float32[2", "x: float32[?", "the dims of %x"),
        ("}\n", "} }\n", "line 4: expected the end"),
    ],
)
def test_what_is_no_graph(old, new, message):
    builder = Builder()
    text = str(builder.build(ops.softmax(builder.input("x", (2, 3)), axis=0)))
    assert old in text
    with pytest.raises(GraphError, match=message):
        parse(text.replace(old, new, 1))


def test_a_large_constant_that_was_damaged():
    builder = Builder()
    text = str(builder.build(builder.constant(numpy.arange(64.0))))
    place = text.index('"') + 60
    damaged = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
    with pytest.raises(GraphError, match="are not those that"):
        parse(damaged)
    with pytest.raises(GraphError, match="does not stand in the text"):
        parse(text.partition("constants")[0])
    assert Constant(numpy.arange(64.0)) == parse(text).nodes[0].value


@pytest.mark.parametrize("name", ["größe", "a b", 'quo"te', "x[0]", "a/b-c", "a\\b", "a\nb", "%", ""])
def test_names_of_any_characters(name):
    value = Value(TensorType((2,), "float32"), name)
    graph = Graph((value,), (), (), (value,))
    returns(graph)
    assert parse(str(graph)).inputs[0].name == name


@pytest.mark.parametrize(
    "origin",
    [
        Origin("/models in use/dit.py:3", "/DiT/Block"),
        Origin("/models in use/dit.py:3"),
        Origin("dit.py:3", "/DiT"),
        Origin(layer="/DiT/Block"),
        Origin("<string>:1"),
    ],
)
def test_origins_with_odd_paths(origin):
    x = Value(TensorType((2,), "float32"), "x")
    y = Value(TensorType((2,), "float32"), "y")
    returns(Graph((x,), (), (Node(op_named("exp"), (x,), {}, (y,), origin),), (y,)))


def test_numbers_of_numpy_are_numbers():
    def graph(epsilon, axes):
        builder = Builder()
        x = builder.input("x", (2, 8), "float32")
        return builder.build(ops.sum(ops.rms_norm(x, epsilon=epsilon), axes=axes))

    plain, others = graph(1e-6, (1,)), graph(numpy.float64(1e-6), [numpy.int64(1)])
    assert plain.hash == others.hash
    assert str(plain) == str(others)
    returns(others)


def test_constants_of_foreign_byte_order():
    array = numpy.arange(40, dtype="float32")
    swapped = Constant(array.astype(">f4"))
    assert swapped == Constant(array)
    assert swapped.type == Constant(array).type
    assert numpy.array_equal(swapped.array, array)
    assert swapped.little_endian == array.astype("<f4").tobytes()


def test_a_graph_in_a_prologue_has_none():
    x = Value(TensorType((2,), "float32"), "x")
    plain = Graph((x,), (), (), (x,))
    y = Value(TensorType((2,), "float32"), "y")
    deeper = Graph((x,), (y,), (), (x,), plain)
    z = Value(TensorType((2,), "float32"), "z")
    deeper.check()
    with pytest.raises(GraphError, match="prologue has a prologue"):
        Graph((x,), (z,), (), (x,), deeper).check()
