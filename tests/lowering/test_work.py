"""Nodes as kernels are to do them: parts of a tensor are written to where they belong."""

import numpy
import pytest

from jitinfer.graph import Builder, ops
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.kernels.device_library import numpy_device_library
from jitinfer.kernels.interpreter import interpret
from jitinfer.kernels.target import Target
from jitinfer.lowering.arrangement import arranged
from jitinfer.lowering.choice import offers
from jitinfer.lowering.work import kernel_nodes, unsupported
from jitinfer.passes import default, run_passes

TARGET = Target.named(90)


def joint(*, axis=1, shared=False, whole=False):
    """Two streams, computed and joined."""
    builder = Builder()
    x, y = builder.input("x", (2, 3, 8)), builder.input("y", (2, 5 if axis == 1 else 3, 8))
    first, second = ops.silu(x), ops.tanh(y)
    z = ops.concat(first, x if whole else second, axis=axis)
    return builder.build(z, *([first] if shared else []))


def interpreted(graph, arrays):
    """The outputs, each node by the first offer for it, from one memory a value."""
    memory = dict(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes:
        if node.op.name in ("constant", "full"):
            memory[node.output] = evaluate_node(node, [])[0]
    for node in kernel_nodes(graph, TARGET):
        # What waits for the kernel before it can be interpreted on a device only.
        family, config = next(each for each in offers(node, TARGET) if not dict(each[1].values).get("programmatic"))
        candidate = family.launches(node, config, TARGET)
        with numpy_device_library():
            results = interpret(node, candidate, [None if value is None else memory[value] for value in node.inputs])
        for value, store, result in zip(node.outputs, node.stores or [None], results, strict=True):
            if value not in memory or store is None:
                memory[value] = result
            else:  # another part of it is there already
                flat, part = memory[value].reshape(-1), numpy.arange(value.type.size)
                places = numpy.lib.stride_tricks.as_strided(
                    part[store.offset :], store.shape, [stride * part.itemsize for stride in store.strides]
                ).reshape(-1)
                flat[places] = result.reshape(-1)[places]
    return [memory[value] for value in graph.outputs]


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_parts_are_written_in_place(axis):
    graph = joint(axis=axis)
    nodes = kernel_nodes(graph, TARGET)
    assert [node.op.name for node in nodes] == ["silu", "tanh"]
    assert {node.output for node in nodes} == {graph.outputs[0]}
    arrays = [
        numpy.random.default_rng(i).standard_normal(v.shape).astype("float32") for i, v in enumerate(graph.inputs)
    ]
    expected = numpy.concatenate([arrays[0] / (1 + numpy.exp(-arrays[0])), numpy.tanh(arrays[1])], axis)
    numpy.testing.assert_allclose(interpreted(graph, arrays)[0], expected, rtol=1e-6, atol=1e-6)


def test_parts_of_an_image_with_channels_last_are_written_in_place():
    builder = Builder()
    x = builder.input("x", (2, 3, 4, 5))
    first, second = (
        ops.conv2d(x, builder.parameter(name, (6, 3, 3, 3)), padding=((1, 1), (1, 1))) for name in ("a", "b")
    )
    y = ops.conv2d(ops.concat(first, ops.tanh(second), axis=1), builder.parameter("c", (2, 12, 1, 1)))
    graph = run_passes(builder.build(y), arranged(default(), "float32"), check=True)[0]
    assert "concat" in graph.counts()
    nodes = kernel_nodes(graph, TARGET)
    assert "concat" not in [node.op.name for node in nodes]
    joined = nodes[-1].inputs[0]
    assert sorted(node.store(0).offset for node in nodes if node.output is joined) == [0, 6]
    assert all(node.store(0).strides == (240, 1, 60, 12) for node in nodes if node.output is joined)


@pytest.mark.parametrize("changes", [{"shared": True}, {"whole": True}])
def test_what_others_read_is_copied(changes):
    nodes = kernel_nodes(joint(**changes), TARGET)
    assert "concat" in [node.op.name for node in nodes]


def test_what_no_kernel_computes_is_named():
    builder = Builder()
    image, weight = (builder.input(name, (4, 3, 3, 3), "float64") for name in "xw")
    graph = builder.build(ops.conv2d(ops.silu(image), weight))
    assert [node.op.name for node in unsupported(graph, TARGET)] == ["conv2d"]
