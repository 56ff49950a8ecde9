"""A UNet and a decoder in miniature, node by node, by the interpreter."""

import numpy
import pytest
from diffusion_graphs import GRAPHS, random_values
from lowered_graphs import TARGET, lowered
from products import interpretable, mended_interpreter

from jitinfer.graph import evaluate
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.kernels.device_library import numpy_device_library
from jitinfer.kernels.interpreter import interpret
from jitinfer.lowering.choice import offers
from jitinfer.lowering.work import kernel_nodes


@pytest.mark.parametrize(("name", "sizes"), [("unet", {"size": 4}), ("decoder", {"size": 3})])
def test_kernels_of_the_whole_graph(name, sizes):
    """The first offer for every node but attention, which tensor maps are for, interpreted."""
    before = GRAPHS[name](channels=8, **sizes)
    inputs, weights = random_values(before)
    (exact,) = evaluate(before, inputs, weights, arithmetic="float64")
    graph = lowered(before, "float32")
    (found,) = interpreted(graph, [*inputs, *evaluate(graph.prologue, weights)])
    assert numpy.abs(found - exact).max() <= 2e-6 * numpy.abs(exact).max()


def interpreted(graph, arrays):
    """No value of these graphs is written in parts."""
    memory = dict(zip((*graph.inputs, *graph.parameters), arrays, strict=True))
    for node in kernel_nodes(graph, TARGET):
        given = [None if value is None else memory[value] for value in node.inputs]
        family, config = next(each for each in offers(node, TARGET) if each[0].name != "cublaslt")
        if node.op.name == "attention":
            results = evaluate_node(node, given)
        else:
            candidate = family.launches(node, interpretable(config), TARGET)
            with numpy_device_library(), mended_interpreter():
                results = interpret(node, candidate, given)
        memory.update(zip(node.outputs, results, strict=True))
    return [memory[value] for value in graph.outputs]
