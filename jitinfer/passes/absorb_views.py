"""absorb_views and absorb_stores: reshapes, transposes, slices and broadcasts become strides of who reads or writes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from jitinfer.graph.operations.movement import concat_places
from jitinfer.graph.types import contiguous_strides
from jitinfer.graph.view import View
from jitinfer.passes.editor import Editor
from jitinfer.passes.rewrite import GraphPass, graph_pass

if TYPE_CHECKING:
    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node, Value

CUTTING = frozenset({"linear", "matmul"})
"""Ops whose kernels write results under any axes, also such as are parts of the op's own."""

_Source = tuple["Value", View]
"""What a value is: this view of another one's buffer."""


@graph_pass("absorb_views")
class AbsorbViews(GraphPass):
    """Operands are read where they lie, if the op can read strides; what nobody needs any more goes.

    A view stays as a node where its result is an output, where an op that cannot read strides needs it, and where its
    elements do not lie at regular distances.
    """

    def run(self, graph: Graph) -> tuple[Graph, int]:
        sources: dict[Value, _Source] = {}
        nodes: list[Node] = []
        count = 0
        for old in graph.nodes:
            node = self._reading(old, sources)
            count += node is not old
            nodes.append(node)
            found = self._view_of(old, sources)
            if found is not None:
                sources[old.output] = found
        return (Editor(dataclasses.replace(graph, nodes=tuple(nodes))).finish(), count) if count else (graph, 0)

    def _view_of(self, node: Node, sources: dict[Value, _Source]) -> _Source | None:
        """The buffer that the result of a view lies in, and where; None for other nodes, and where there is a copy."""
        if node.op.name not in ("reshape", "transpose", "slice", "broadcast_to") or any(node.stores):
            return None
        (value,) = node.inputs
        if value is None:
            return None
        source, view = self._located(value, node.view(0), sources) or (value, View.of(value.shape))
        if node.op.name == "transpose":
            return source, view.transpose(node.permutation)
        if node.op.name == "slice":
            return source, view.slice(node.starts, node.stops, node.steps)
        if node.op.name == "broadcast_to":
            return source, view.broadcast_to(node.shape)
        reshaped = view.reshape(node.shape)
        return None if reshaped is None else (source, reshaped)

    def _located(self, value: Value, view: View | None, sources: dict[Value, _Source]) -> _Source | None:
        """Where an operand, read through `view`, lies; None if that is no news, or no view."""
        if value not in sources:
            return None if view is None else (value, view)
        source, outer = sources[value]
        composed = outer if view is None else outer.compose(view, value.shape)
        return None if composed is None else (source, composed)

    def _reading(self, node: Node, sources: dict[Value, _Source]) -> Node:
        """The node, reading its operands where they lie."""
        if not node.op.strided:
            return node
        inputs, views = list(node.inputs), [node.view(position) for position in range(len(node.inputs))]
        for position, value in enumerate(node.inputs):
            found = None if value not in sources else self._located(value, views[position], sources)
            if found is not None:
                source, view = found
                inputs[position], views[position] = source, None if view.whole(source.shape) else view
        if inputs == list(node.inputs):
            return node
        return dataclasses.replace(node, inputs=tuple(inputs), views=tuple(views) if any(views) else ())


@graph_pass("absorb_stores")
class AbsorbStores(GraphPass):
    """Where the only reader of a result is a transpose or reshape of all of it, it is written in that form at once."""

    def run(self, graph: Graph) -> tuple[Graph, int]:
        readers = Counter(value for node in graph.nodes for value in node.inputs if value is not None)
        readers.update(dict.fromkeys(graph.outputs, 2))
        place = {value: position for position, node in enumerate(graph.nodes) for value in node.outputs}
        nodes: list[Node | None] = list(graph.nodes)
        count = 0
        for position, node in enumerate(graph.nodes):
            if node.op.name not in ("transpose", "reshape") or any(node.stores):
                continue
            (read,) = node.inputs
            if read is None or read not in place or readers[read] != 1:
                continue
            writer = nodes[place[read]]
            assert writer is not None
            store = self._store(writer, node, read)
            if store is None:
                continue
            outputs = tuple(node.output if value is read else value for value in writer.outputs)
            stores = [store if value is read else writer.store(i) for i, value in enumerate(writer.outputs)]
            nodes[place[read]] = dataclasses.replace(writer, outputs=outputs, stores=tuple(stores))
            nodes[position] = None
            place[node.output] = place[read]
            count += 1
        return (dataclasses.replace(graph, nodes=tuple(filter(None, nodes))), count) if count else (graph, 0)

    def _store(self, writer: Node, node: Node, read: Value) -> View | None:
        """How `writer` writes the result of `node`, which reads `read` alone; None if it cannot."""
        if not writer.op.strided:
            return None
        before = writer.store(writer.outputs.index(read))
        view = node.view(0) or View.of(read.shape)
        if node.op.name == "transpose":
            turned = None if before is not None else inverse(view.transpose(node.permutation), read.type.size)
            return turned if turned is not None and _writable(writer, read, turned) else None
        if not view.contiguous() or view.size != read.type.size:
            return None
        return before or View.of(read.shape)


def _writable(writer: Node, result: Value, store: View) -> bool:
    """Whether kernels of `writer` can write a result so: most of them want strides along its axes.

    Products take the axes of the store one by one, and copies that put tensors together go part by part.
    """
    if writer.op.name in CUTTING:
        return True
    stores = tuple(store if value is result else writer.store(i) for i, value in enumerate(writer.outputs))
    if writer.op.name == "concat":
        return concat_places(dataclasses.replace(writer, stores=stores)) is not None
    types = writer.op.output_types(writer.input_types(), writer.attributes)
    return store.reshape(types[writer.outputs.index(result)].shape) is not None


def inverse(view: View, elements: int) -> View | None:
    """The store through which a buffer of `elements`, written in its own order, lies as `view` reads it.

    `view` must read each element once; None if it does not.
    """
    axes = sorted(range(len(view.shape)), key=lambda axis: -view.strides[axis])
    axes = [axis for axis in axes if view.shape[axis] != 1]
    shape = tuple(view.shape[axis] for axis in axes)
    if (
        view.offset != 0
        or view.size != elements
        or tuple(view.strides[axis] for axis in axes) != contiguous_strides(shape)
    ):
        return None
    strides = contiguous_strides(view.shape)
    return View(shape, tuple(strides[axis] for axis in axes))
