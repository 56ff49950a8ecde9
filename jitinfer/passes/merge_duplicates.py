"""merge_duplicates: two nodes that compute the same become one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.graph.graph import nested_graphs
from jitinfer.graph.node import Constant
from jitinfer.graph.op import Kind
from jitinfer.passes.editor import Editor
from jitinfer.passes.rewrite import GraphPass, graph_pass

if TYPE_CHECKING:
    from collections.abc import Hashable

    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node


@graph_pass("merge_duplicates")
class MergeDuplicates(GraphPass):
    """Common subexpression elimination. Opaque nodes are left alone: they may be random."""

    def run(self, graph: Graph) -> tuple[Graph, int]:
        editor = Editor(graph)
        seen: dict[Hashable, Node] = {}
        count = 0
        for node in editor.nodes():
            if node.op.kind is Kind.OPAQUE or any(nested_graphs(node)):
                continue
            key = (node.op.name, editor.inputs(node), _exact(node), node.views, node.stores)
            first = seen.setdefault(key, node)
            if first is not node:
                count += 1
                for old, new in zip(node.outputs, first.outputs, strict=True):
                    editor.replace(old, new)
        return (editor.finish(), count) if count else (graph, 0)


def _exact(node: Node) -> str:
    """The attributes as text, in which 1 and 1.0 and True differ, and so do 0.0 and -0.0."""
    attributes = ((name, each.digest if isinstance(each, Constant) else each) for name, each in node.attributes.items())
    return repr(tuple(attributes))
