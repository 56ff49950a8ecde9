"""merge_concat: parts of the same tensors, joined one by one, are cut from one joint tensor instead."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from jitinfer.graph import ops
from jitinfer.graph.builder import Tensor
from jitinfer.passes.editor import Editor
from jitinfer.passes.rewrite import GraphPass, graph_pass

if TYPE_CHECKING:
    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node, Value

_Parts = tuple[tuple["Value", ...], int]
"""What is joined, before it was cut, and the axis along which it is joined."""


@graph_pass("merge_concat")
class MergeConcat(GraphPass):
    """concat(a[..., c_i], b[..., c_i]) for several c_i  ->  c = concat(a, b), and c[..., c_i]

    The joint attention of Esser et al., 2024 (Stable Diffusion 3), joins queries, keys and values of two streams; after
    merge_linear they are parts of one product for each stream. Only where the parts are all of a and b: nothing is
    copied that was not copied before.
    """

    def run(self, graph: Graph) -> tuple[Graph, int]:
        editor = Editor(graph)
        joined: dict[_Parts, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            parts = _parts(editor, node)
            if parts is not None:
                joined[parts].append(node)
        count = 0
        for (sources, axis), nodes in joined.items():
            editor.builder.origin = nodes[0].origin
            tensors = [Tensor(editor.builder, source) for source in sources]
            if len(nodes) > 1 and sum(node.output.type.size for node in nodes) >= sum(t.type.size for t in tensors):
                whole = ops.concat(*tensors, axis=axis)
                for node in nodes:
                    editor.replace(node.output, _part(editor, whole, node, axis))
                count += 1
        return (editor.finish(), count) if count else (graph, 0)


def _parts(editor: Editor, node: Node) -> _Parts | None:
    """None unless all operands are cut alike, and along other axes than the one along which they are joined."""
    if node.op.name != "concat" or not node.plain:
        return None
    slices = [None if value is None else editor.producer(value) for value in node.inputs]
    cut = [each for each in slices if each is not None and each.op.name == "slice" and each.plain]
    if len(cut) < len(slices):
        return None
    axis = node.axis % len(node.output.shape)
    sources = tuple(value for each in cut for value in each.inputs if value is not None)
    whole = all(_along(each, axis) == (0, source.shape[axis], 1) for each, source in zip(cut, sources, strict=True))
    alike = len({_elsewhere(each, source, axis) for each, source in zip(cut, sources, strict=True)}) == 1
    return (sources, axis) if whole and alike else None


def _along(node: Node, axis: int) -> tuple[int, int, int]:
    return node.starts[axis], node.stops[axis], node.steps[axis]


def _elsewhere(node: Node, source: Value, axis: int) -> tuple[object, ...]:
    """How a slice cuts all other axes, and what size they have before."""
    return tuple((_along(node, other), dim) for other, dim in enumerate(source.shape) if other != axis)


def _part(editor: Editor, whole: Tensor, node: Node, axis: int) -> Value:
    """What `node` joined, cut from the joint tensor."""
    cut = None if node.inputs[0] is None else editor.producer(node.inputs[0])
    assert cut is not None
    bounds = [(0, dim, 1) if other == axis else _along(cut, other) for other, dim in enumerate(whole.shape)]
    starts, stops, steps = zip(*bounds, strict=True)
    part: Tensor = ops.slice(whole, starts=starts, stops=stops, steps=steps)
    return part.value
