"""weight_prologue: what depends on the model's weights alone is computed once, when they are loaded."""

from __future__ import annotations

import dataclasses

from jitinfer.graph.builder import Builder
from jitinfer.graph.graph import Graph, nested_graphs
from jitinfer.graph.node import Node, Value
from jitinfer.graph.op import Kind
from jitinfer.passes.rewrite import GraphPass, graph_pass


def weight_nodes(graph: Graph) -> list[Node]:
    """The nodes that compute something from the weights and constants alone, in order.

    Broadcasts are left out: their readers can repeat what they read. So are opaque nodes, which may be random, and
    control flow.
    """
    known = {value for node in graph.nodes if node.op.kind is Kind.CREATION for value in node.outputs}
    weights = set(graph.parameters)
    found = []
    for node in graph.nodes:
        given = {value for value in node.inputs if value is not None}
        excluded = node.op.kind in (Kind.OPAQUE, Kind.CONTROL) or node.op.name == "broadcast_to"
        if not excluded and not any(nested_graphs(node)) and given & weights and given <= weights | known:
            found.append(node)
            weights.update(node.outputs)
    return found


def weight_values(graph: Graph) -> set[Value]:
    """The weights, and what depends on them alone."""
    return {*graph.parameters, *(value for node in weight_nodes(graph) for value in node.outputs)}


@graph_pass("weight_prologue")
class WeightPrologue(GraphPass):
    """The graph's parameters become the results of a second graph, whose inputs are the weights.

    Constants that go into such results are copied into the prologue.
    """

    def run(self, graph: Graph) -> tuple[Graph, int]:
        moved = weight_nodes(graph)
        if not moved:
            return graph, 0
        prologue = graph.prologue or identity(graph.parameters)
        names = Builder([value.name for value in prologue.inputs])
        inside: dict[Value, Value] = {}
        nodes: list[Node] = []

        def copy(node: Node) -> None:
            outputs = tuple(Value(value.type, names.name(node.op.name)) for value in node.outputs)
            inputs = tuple(None if value is None else inside.get(value, value) for value in node.inputs)
            inside.update(zip(node.outputs, outputs, strict=True))
            nodes.append(dataclasses.replace(node, inputs=inputs, outputs=outputs))

        for node in prologue.nodes:
            copy(node)
        inside.update(
            (outer, inside.get(inner, inner)) for outer, inner in zip(graph.parameters, prologue.outputs, strict=True)
        )
        needed = {value for node in moved for value in node.inputs}
        for node in graph.nodes:
            if node.op.kind is Kind.CREATION and not needed.isdisjoint(node.outputs):
                copy(node)
        for node in moved:
            copy(node)
        gone = set(moved)
        rest = tuple(node for node in graph.nodes if node not in gone)
        read = dict.fromkeys((*(value for node in rest for value in node.inputs if value is not None), *graph.outputs))
        own = {value for node in rest for value in node.outputs}
        parameters = tuple(value for value in read if value in inside and value not in own)
        after = Graph(prologue.inputs, (), tuple(nodes), tuple(inside[value] for value in parameters))
        return dataclasses.replace(graph, parameters=parameters, nodes=rest, prologue=after), len(moved)


def identity(parameters: tuple[Value, ...]) -> Graph:
    """A prologue that gives the weights as they are."""
    inputs = tuple(Value(value.type, value.name) for value in parameters)
    return Graph(inputs, (), (), inputs)
