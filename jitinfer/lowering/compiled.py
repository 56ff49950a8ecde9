"""A graph with its prologue -> a model that a device can run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jitinfer.graph.graph import Graph
from jitinfer.graph.node import Value
from jitinfer.lowering.lower import Lowered, Outline
from jitinfer.lowering.prologue import pieces
from jitinfer.runtime.model import Model, Stage

if TYPE_CHECKING:
    from jitinfer.graph.node import Node
    from jitinfer.kernels.target import Target
    from jitinfer.lowering.choice import Chooser
    from jitinfer.lowering.prologue import Pieces


def compile_graph(graph: Graph, target: Target, chooser: Chooser, lanes: int = 1) -> tuple[Model, Lowered]:
    """The model of a graph after its passes, and how its main plan came about.

    lanes: of the main plan, as `lower` says; the prologue runs one step after the other.

    Raises UnsupportedOpError for a node that no kernel can compute, KernelError for one of which nothing compiles.
    """
    found = pieces(graph)
    outline, alike = Outline(graph, target), _prologue(found, target)
    choices = iter(chooser.choose(outline.nodes, [node for each in alike.values() for node in each.nodes]))
    lowered = outline.plan([next(choices) for _ in outline.nodes], lanes)
    prologue = [each.plan([next(choices) for _ in each.nodes]) for each in alike.values()]
    assert {buffer.name for buffer in lowered.plan.weights} == {value.name for value in graph.parameters}
    number = {form: i for i, form in enumerate(alike)}
    stages = []
    for piece in found.computed:
        form, results = piece.graph.hash, tuple(graph.parameters[i].name for i in piece.parameters)
        stages.append(Stage(number[form], piece.weights, results, form))
    direct = tuple((weight, graph.parameters[i].name) for weight, i in found.direct)
    types = tuple(value.type for value in graph.weights)
    return Model(lowered.plan, types, direct, tuple(stages), tuple(each.plan for each in prologue)), lowered


def nodes_by_plan(graph: Graph, target: Target) -> list[list[Node]]:
    """The nodes for which a model of this graph has kernels: those of its plan, and of each plan of the prologue."""
    return [each.nodes for each in (Outline(graph, target), *_prologue(pieces(graph), target).values())]


def _prologue(found: Pieces, target: Target) -> dict[str, Outline]:
    """By the hashes of their graphs, in the order of the plans."""
    alike: dict[str, Outline] = {}
    for piece in found.computed:
        if piece.graph.hash not in alike:
            alike[piece.graph.hash] = Outline(_with_plain_names(piece.graph), target)
    return alike


def _with_plain_names(graph: Graph) -> Graph:
    """The same graph with names of its own: one plan serves all pieces of its form."""
    names: dict[Value, Value] = {}

    def renamed(value: Value) -> Value:
        return names.setdefault(value, Value(value.type, f"v_{len(names)}"))

    inputs = tuple(map(renamed, graph.inputs))
    nodes = tuple(
        dataclasses.replace(
            node,
            inputs=tuple(None if value is None else renamed(value) for value in node.inputs),
            outputs=tuple(map(renamed, node.outputs)),
        )
        for node in graph.nodes
    )
    return Graph(inputs, (), nodes, tuple(map(renamed, graph.outputs)))
