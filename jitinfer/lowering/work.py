"""A graph as what kernels are to do: nodes in order, several of which may write parts of one value."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from jitinfer.graph.node import Node
from jitinfer.graph.op import Kind, op_named
from jitinfer.graph.view import View
from jitinfer.kernels.family import families_for

if TYPE_CHECKING:
    from jitinfer.graph import Graph
    from jitinfer.graph.node import Value
    from jitinfer.kernels.target import Target


def kernel_nodes(graph: Graph, target: Target) -> list[Node]:
    """The nodes of `graph` that compute something, in order.

    Constants are left out. Where a tensor is put together of others, those who compute the parts write them to where
    they belong, if there are kernels that can; the rest is copied.
    """
    nodes = [node for node in graph.nodes if node.op.kind is not Kind.CREATION]
    for join in [node for node in nodes if node.op.name == "concat" and not any(node.stores)]:
        nodes = _without(join, nodes, graph, target)
    return nodes


def _without(join: Node, nodes: list[Node], graph: Graph, target: Target) -> list[Node]:
    """`nodes` with those in place of `join` that write its parts; as they are where a copy is left to do at least."""
    parts = _parts(join)
    writers = {value: node for node in nodes for value in node.outputs}
    reads = Counter(value for node in nodes for value in node.inputs if value is not None)
    changed: dict[Node, Node] = {}
    for value, part in parts:
        writer = writers.get(value) if value is not None and reads[value] == 1 and value not in graph.outputs else None
        if writer is None or value is None:
            return nodes
        replaced = _writing(changed.get(writer, writer), value, join.output, part)
        if replaced is None or next(families_for(replaced, target), None) is None:
            return nodes
        changed[writer] = replaced
    return [changed.get(node, node) for node in nodes if node is not join]


def _parts(join: Node) -> list[tuple[Value | None, View]]:
    """Each operand that is read as it is, and its place in the result; None for one that is read through a view."""
    whole, parts, start = View.of(join.output.shape), [], 0
    axis = join.axis % len(join.output.shape)
    for position, value in enumerate(join.inputs):
        kind = join.input_type(position)
        assert kind is not None
        starts, stops = [0] * kind.rank, list(join.output.shape)
        starts[axis], stops[axis] = start, start + kind.shape[axis]
        start = stops[axis]
        part = whole.slice(tuple(starts), tuple(stops), (1,) * kind.rank)
        parts.append((value if join.view(position) is None else None, part))
    return parts


def _writing(node: Node, value: Value, into: Value, part: View) -> Node | None:
    """`node`, but with its result `value` written to a part of `into`; None where strides cannot say that."""
    position = node.outputs.index(value)
    before = node.store(position)
    store = part if before is None else part.compose(before, value.shape)
    if store is None:
        return None
    outputs = tuple(into if each is value else each for each in node.outputs)
    stores = [store if i == position else node.store(i) for i in range(len(outputs))]
    return dataclasses.replace(node, outputs=outputs, stores=tuple(stores))


def unsupported(graph: Graph, target: Target) -> list[Node]:
    """The nodes of a graph, and of its prologue, that no kernel can compute."""
    nodes = [node for part in (graph, graph.prologue) if part is not None for node in kernel_nodes(part, target)]
    return [node for node in nodes if next(families_for(node, target), None) is None]


def copy_node(value: Value, into: Value) -> Node:
    """A copy of a whole tensor."""
    op = op_named("broadcast_to")
    return Node(op, (value,), op.complete({"shape": value.shape}), (into,))
