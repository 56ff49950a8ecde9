"""transpose_weights: the matrices of products lie as [N, K], as the matrix units of GPUs read them best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.graph import ops
from jitinfer.graph.builder import Tensor
from jitinfer.passes.editor import Editor
from jitinfer.passes.rewrite import GraphPass, graph_pass
from jitinfer.passes.weight_prologue import weight_values

if TYPE_CHECKING:
    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node


@graph_pass("transpose_weights")
class TransposeWeights(GraphPass):
    """linear(x, weight [K, N])  ->  linear(x, weight transposed, transpose_weight=True)

    Only weights that nothing but such products reads: the transposed ones take their place, in the prologue. Belongs
    before weight_prologue.
    """

    def run(self, graph: Graph) -> tuple[Graph, int]:
        fixed = weight_values(graph)
        editor = Editor(graph)
        count = 0
        for value in (*graph.parameters, *(result for node in graph.nodes for result in node.outputs)):
            if value not in fixed:
                continue
            readers = editor.users(value)
            if readers and not editor.is_output(value) and all(_multiplies_by(node, value) for node in readers):
                editor.builder.origin = readers[0].origin
                rank = len(value.shape)
                permutation = (*range(rank - 2), rank - 1, rank - 2)
                turned = ops.transpose(Tensor(editor.builder, value), permutation=permutation)
                for node in readers:
                    operands = [None if each is None else Tensor(editor.builder, each) for each in node.inputs]
                    operands[1] = turned
                    product = ops.linear(*operands, **{**node.attributes, "transpose_weight": True})
                    editor.replace(node.output, product.value)
                    count += 1
        return (editor.finish(), count) if count else (graph, 0)


def _multiplies_by(node: Node, value: object) -> bool:
    """Whether the only thing that it does with `value` is to multiply by it as [K, N]."""
    if node.op.name != "linear" or node.transpose_weight or not node.plain:
        return False
    return node.inputs[1] is value and sum(each is value for each in node.inputs) == 1
