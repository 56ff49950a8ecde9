"""Every node of real models that is neither a contraction nor attention has a kernel here, and the right result."""

import numpy
import pytest

pytest.importorskip("paddle")
import models
from generated_cases import ELSEWHERE, TARGET, check
from model_graphs import model_graph

from jitinfer.graph import evaluate
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.kernels import families_for

LONGEST = 300_000
"""Elements of a result that the interpreter computes in reasonable time."""


def nodes_with_operands(graph, given):
    """The nodes of one evaluation, each with the arrays that it takes."""
    values = dict(zip((*graph.inputs, *graph.parameters), given, strict=True))
    for node in graph.nodes:
        arrays = [None if value is None else values[value] for value in node.inputs]
        yield node, arrays
        values.update(zip(node.outputs, evaluate_node(node, arrays), strict=True))


def signature(node):
    types = tuple(map(str, (*node.input_types(), *(value.type for value in node.outputs))))
    attributes = {name: getattr(value, "hash", value) for name, value in node.attributes.items()}
    return node.op.name, types, str(attributes), str(node.views), str(node.stores)


@pytest.mark.slow
@pytest.mark.parametrize("builder", models.BUILDERS, ids=lambda each: each.__name__)
def test_all_nodes(builder):
    found = model_graph(builder)
    graph = found.after
    weights = list(found.weights)
    seen = set()
    if graph.prologue is not None:
        for node, arrays in nodes_with_operands(graph.prologue, weights):
            one_node(node, arrays, seen)
        weights = evaluate(graph.prologue, weights)
    for node, arrays in nodes_with_operands(graph, [*found.inputs, *weights]):
        one_node(node, arrays, seen)
    assert seen


def one_node(node, arrays, seen):
    if node.op.name in ELSEWHERE:
        return
    family = next((each for each in families_for(node, TARGET) if each.name != "row_norm"), None)
    assert family is not None, node
    key = signature(node)
    if key in seen or sum(value.type.size for value in node.outputs) > LONGEST:
        return
    seen.add(key)
    scale = max((float(numpy.abs(each).max(initial=1.0)) for each in arrays if each is not None), default=1.0)
    usable = [each for each in family.configs(node, TARGET) if not each["programmatic"]]
    check(family, node, arrays, slack=2000.0, scale=max(scale, 1.0), configs=usable[:1])
