"""A graph as what kernels are to do: nodes in order, several of which may write parts of one value."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from jitinfer.graph.node import Node
from jitinfer.graph.op import Kind, op_named
from jitinfer.graph.operations.movement import concat_places
from jitinfer.kernels.family import families_for

if TYPE_CHECKING:
    from jitinfer.graph import Graph
    from jitinfer.graph.node import Value
    from jitinfer.graph.view import View
    from jitinfer.kernels.target import Target


def kernel_nodes(graph: Graph, target: Target) -> list[Node]:
    """The nodes of `graph` that compute something, in order.

    Constants are left out. Where a tensor is put together of others, those who compute the parts write them to where
    they belong, if there are kernels that can; the rest is copied.
    """
    nodes = [node for node in graph.nodes if node.op.kind is not Kind.CREATION]
    for join in [node for node in nodes if node.op.name == "concat"]:
        nodes = _without(join, nodes, graph, target)
    return nodes


def _without(join: Node, nodes: list[Node], graph: Graph, target: Target) -> list[Node]:
    """`nodes` with those in place of `join` that write its parts; as they are where a copy is left to do at least."""
    parts = concat_places(join)
    if parts is None:
        return nodes
    writers = {value: node for node in nodes for value in node.outputs}
    reads = Counter(value for node in nodes for value in node.inputs if value is not None)
    changed: dict[Node, Node] = {}
    for position, (value, part) in enumerate(zip(join.inputs, parts, strict=True)):
        writer = writers.get(value) if value is not None and reads[value] == 1 and value not in graph.outputs else None
        if writer is None or value is None:
            return nodes
        replaced = _writing(changed.get(writer, writer), value, join.view(position), join.output, part)
        if replaced is None or next(families_for(replaced, target), None) is None:
            return nodes
        changed[writer] = replaced
    return [changed.get(node, node) for node in nodes if node is not join]


def _writing(node: Node, value: Value, read: View | None, into: Value, part: View) -> Node | None:
    """`node`, but with what is read of its result `value` written to a part of `into`; None where strides cannot say
    that."""
    position = node.outputs.index(value)
    before = node.store(position)
    if read is None:
        store = part if before is None else part.compose(before, value.shape)
    else:
        store = part if before == read else None  # it is read in the order in which it is computed
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
