"""The prologue of a graph, taken apart: pieces that have nothing in common, and are alike most of the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.graph.graph import Graph
from jitinfer.graph.op import Kind

if TYPE_CHECKING:
    from jitinfer.graph.node import Node, Value


@dataclass(frozen=True, eq=False)
class Piece:
    """graph: from some weights, by their numbers among all (`weights`), to some parameters (`parameters`)."""

    graph: Graph
    weights: tuple[int, ...]
    parameters: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Pieces:
    """direct: pairs of weight and parameter that are the same tensor, by number; computed: the rest."""

    direct: tuple[tuple[int, int], ...]
    computed: tuple[Piece, ...]


def pieces(graph: Graph) -> Pieces:
    """What computes the parameters of `graph` from the weights."""
    prologue = graph.prologue
    if prologue is None:
        return Pieces(tuple((i, i) for i in range(len(graph.parameters))), ())
    number = {value: i for i, value in enumerate(prologue.inputs)}
    direct = tuple((number[value], i) for i, value in enumerate(prologue.outputs) if value in number)
    together = _connected(prologue)
    computed = [_piece(prologue, nodes, number) for nodes in together]
    return Pieces(direct, tuple(piece for piece in computed if piece.parameters))


def _connected(graph: Graph) -> list[list[Node]]:
    """The nodes in groups that share no computed value; what makes constants is in every group that reads them."""
    group: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if node.op.kind is Kind.CREATION:
            continue
        joined = [node]
        for value in node.inputs:
            producer = None if value is None else graph.producers.get(value)
            if producer is not None and producer in group and group[producer] is not joined:
                joined = group[producer] + joined
                for member in joined:
                    group[member] = joined
        for member in joined:
            group[member] = joined
    return list({id(nodes): nodes for nodes in group.values()}.values())


def _piece(graph: Graph, nodes: list[Node], number: dict[Value, int]) -> Piece:
    order = {node: i for i, node in enumerate(graph.nodes)}
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None)
    makers = {graph.producers[value] for value in read if value in graph.producers}
    whole = sorted({*nodes, *(node for node in makers if node.op.kind is Kind.CREATION)}, key=order.__getitem__)
    made = {value for node in whole for value in node.outputs}
    inputs = tuple(value for value in read if value in number)
    results = [(i, value) for i, value in enumerate(graph.outputs) if value in made]
    return Piece(
        Graph(inputs, (), tuple(whole), tuple(value for _, value in results)),
        tuple(number[value] for value in inputs),
        tuple(i for i, _ in results),
    )
