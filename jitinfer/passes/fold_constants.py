"""fold_constants: what depends on constants alone is computed now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.graph import nested_graphs
from jitinfer.graph.node import Constant, Node, Value
from jitinfer.graph.op import Kind, op_named
from jitinfer.passes.editor import Editor
from jitinfer.passes.rewrite import GraphPass, graph_pass

if TYPE_CHECKING:
    from jitinfer.graph.graph import Graph

LARGEST = 1 << 20
"""Bytes up to which a result becomes a constant; larger ones are left to be computed with the weights."""


@graph_pass("fold_constants")
class FoldConstants(GraphPass):
    """What depends on constants alone becomes a constant, by the ops' NumPy references.

    Numbers spread over a shape (`full`) stay as they are.
    """

    def run(self, graph: Graph) -> tuple[Graph, int]:
        editor = Editor(graph)
        count = 0
        for node in editor.nodes():
            if not self._foldable(node):
                continue
            producers = [editor.producer(value) if value is not None else None for value in editor.inputs(node)]
            if any(
                value is not None and not _known(producer)
                for value, producer in zip(node.inputs, producers, strict=True)
            ):
                continue
            arrays = [None if producer is None else evaluate_node(producer, [])[0] for producer in producers]
            editor.builder.origin = node.origin
            for old, array in zip(node.outputs, evaluate_node(node, arrays), strict=True):
                (new,) = editor.builder.add(op_named("constant"), (), {"value": Constant(array)})
                editor.replace(old, new)
            count += 1
        return (editor.finish(), count) if count else (graph, 0)

    def _foldable(self, node: Node) -> bool:
        if node.op.kind in (Kind.OPAQUE, Kind.CONTROL) or node.op.name in ("constant", "full"):
            return False
        return sum(value.type.nbytes for value in node.outputs) <= LARGEST and not any(nested_graphs(node))


def _known(producer: Node | None) -> bool:
    return producer is not None and producer.op.name in ("constant", "full") and _small(producer.outputs[0])


def _small(value: Value) -> bool:
    return value.type.nbytes <= LARGEST
