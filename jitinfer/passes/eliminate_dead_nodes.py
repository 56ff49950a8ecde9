"""eliminate_dead_nodes: what no output depends on goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.passes.editor import Editor
from jitinfer.passes.rewrite import GraphPass, graph_pass

if TYPE_CHECKING:
    from jitinfer.graph.graph import Graph


@graph_pass("eliminate_dead_nodes")
class EliminateDeadNodes(GraphPass):
    """What no output depends on goes. Inputs and parameters stay: they are the graph's signature."""

    def run(self, graph: Graph) -> tuple[Graph, int]:
        smaller = Editor(graph).finish()
        count = len(graph.nodes) - len(smaller.nodes)
        return (smaller, count) if count else (graph, 0)
