"""merge_linear: products of one operand with several weights become one product with all of them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from jitinfer.graph import ops
from jitinfer.graph.builder import Tensor
from jitinfer.passes.editor import Editor
from jitinfer.passes.rewrite import GraphPass, graph_pass
from jitinfer.passes.weight_prologue import weight_values

if TYPE_CHECKING:
    from collections.abc import Hashable, Set

    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node, Value


@graph_pass("merge_linear")
class MergeLinear(GraphPass):
    """The projections of attention, the gate and the value of a gated unit, modulations of one embedding.

    Only products whose weights and biases depend on the model's weights alone: these are put together once, in the
    prologue. The results become slices of the common one.
    """

    def run(self, graph: Graph) -> tuple[Graph, int]:
        fixed = weight_values(graph)
        groups: dict[Hashable, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            if mergeable(node, fixed):
                form = (node.operand("x"), node.operand("bias") is None, tuple(node.attributes.values()))
                groups[form].append(node)
        editor = Editor(graph)
        count = 0
        for nodes in groups.values():
            if len(nodes) > 1:
                self._merge(editor, nodes)
                count += 1
        return (editor.finish(), count) if count else (graph, 0)

    def _merge(self, editor: Editor, nodes: list[Node]) -> None:
        first = nodes[0]
        editor.builder.origin = first.origin

        def tensors(name: str) -> list[Tensor]:
            values = [node.operand(name) for node in nodes]
            return [Tensor(editor.builder, editor.resolve(value)) for value in values if value is not None]

        weight = ops.concat(*tensors("weight"), axis=0 if first.transpose_weight else 1)
        bias = ops.concat(*tensors("bias"), axis=0) if first.operand("bias") is not None else None
        whole = ops.linear(tensors("x")[0], weight, bias, **first.attributes)
        start = 0
        for node in nodes:
            shape = node.output.shape
            end = start + shape[-1]
            starts, stops = (*[0] * (len(shape) - 1), start), (*shape[:-1], end)
            part = ops.slice(whole, starts=starts, stops=stops, steps=(1,) * len(shape))
            editor.replace(node.output, part.value)
            start = end


def mergeable(node: Node, fixed: Set[Value]) -> bool:
    """Whether it is a product with one matrix, and weight and bias are among the values in `fixed`."""
    if node.op.name != "linear" or not node.plain:
        return False
    weight, bias, *others = (node.operand(name) for name in ("weight", "bias", "residual", "gate"))
    assert weight is not None
    return len(weight.shape) == 2 and weight in fixed and (bias is None or bias in fixed) and not any(others)
