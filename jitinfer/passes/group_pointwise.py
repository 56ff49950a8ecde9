"""group_pointwise: pointwise ops and reductions of rows that follow each other become one pass over memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.graph.builder import Builder
from jitinfer.graph.op import Kind, op_named
from jitinfer.passes.editor import Editor
from jitinfer.passes.rewrite import GraphPass, graph_pass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node, Value
    from jitinfer.graph.view import View

ROW = 16384
"""Elements of the longest row that a kernel keeps in registers while it reduces it."""

_MIXES = frozenset({"rotary", "timestep_embedding", "group"})
"""Ops of the pointwise kind that do not take each element of a result from the elements at its place."""

_Shape = tuple[int, ...]


@graph_pass("group_pointwise")
class GroupPointwise(GraphPass):
    """Each group is one node, whose `body` is the graph of what it computes.

    A group has one space, the shape of its largest results: its nodes compute tensors of that shape, or, from
    reductions along the last axis, of one element a row. Norms and softmax count as such reductions. What is read
    through a view inside of a group, or is of another shape, stays apart, and so do nodes that would make a group
    depend on itself.
    """

    def run(self, graph: Graph) -> tuple[Graph, int]:
        groups = [group for group in _Grouping(graph).groups() if len(group.nodes) > 1]
        if not groups:
            return graph, 0
        editor = Editor(graph)
        for group in groups:
            self._replace(editor, group)
        return editor.finish(), len(groups)

    def _replace(self, editor: Editor, group: _Group) -> None:
        members = set(group.nodes)
        inside = {value for node in group.nodes for value in node.outputs}
        read = [value for value in inside if editor.is_output(value) or not members.issuperset(editor.users(value))]
        place = {value: i for i, value in enumerate(value for node in group.nodes for value in node.outputs)}
        results = sorted(read, key=place.__getitem__)
        body = _Body(editor)
        for node in group.nodes:
            body.add(node)
        graph = body.graph(results)
        editor.builder.origin = group.nodes[-1].origin
        operands, views = zip(*body.operands, strict=True) if body.operands else ((), ())
        outputs = editor.builder.add(op_named("group"), operands, {"body": graph}, views if any(views) else ())
        for old, new in zip(results, outputs, strict=True):
            editor.replace(old, new)


@dataclass(eq=False)
class _Group:
    """Nodes in order; `space`: the shape of their largest results; `reducing`: whether one goes over a whole row."""

    nodes: list[Node]
    space: _Shape
    reducing: bool


class _Grouping:
    """Goes over the nodes once, from the first to the last: each joins the groups that it reads from, if it can."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._position = {node: i for i, node in enumerate(graph.nodes)}
        self._group: dict[Node, _Group] = {}

    def groups(self) -> list[_Group]:
        for node in self._graph.nodes:
            space = _space(node)
            if space is None:
                continue
            own = _Group([node], space, node.op.kind is Kind.REDUCTION)
            self._group[node] = own
            for other in self._read_from(node):
                joined = self._joined(other, self._group[node])
                if joined is not None:
                    self._group.update(dict.fromkeys(joined.nodes, joined))
        return list(dict.fromkeys(self._group.values()))

    def _read_from(self, node: Node) -> Iterator[_Group]:
        """The groups whose results the node reads as they are."""
        for position, value in enumerate(node.inputs):
            producer = None if value is None else self._graph.producers.get(value)
            if producer in self._group and node.view(position) is None:
                yield self._group[producer]

    def _joined(self, first: _Group, second: _Group) -> _Group | None:
        """Both as one group; None if there can be none."""
        if first is second:
            return None
        space = _common_space(first, second)
        if space is None:
            return None
        nodes = sorted([*first.nodes, *second.nodes], key=self._position.__getitem__)
        joined = _Group(nodes, space, first.reducing or second.reducing)
        if joined.reducing and (not space or space[-1] > ROW):
            return None
        return joined if self._direct(joined) and not self._in_a_circle(joined) else None

    def _direct(self, group: _Group) -> bool:
        """Whether members read each other's results as they are, not through views."""
        members = set(group.nodes)
        return not any(
            node.view(position) is not None and self._graph.producers.get(value) in members
            for node in group.nodes
            for position, value in enumerate(node.inputs)
            if value is not None
        )

    def _in_a_circle(self, group: _Group) -> bool:
        """Whether a result of the group goes into it again by way of nodes outside, other groups taken as one."""
        members = set(group.nodes)
        earliest = self._position[group.nodes[0]]
        seen: set[Node] = set()
        waiting = list(group.nodes)
        while waiting:
            node = waiting.pop()
            for value in node.inputs:
                producer = None if value is None else self._graph.producers.get(value)
                if producer is None or producer in seen:
                    continue
                if producer in members:
                    if node not in members:
                        return True
                    continue
                around = self._group[producer].nodes if producer in self._group else [producer]
                seen.update(around)
                if self._position[around[-1]] > earliest:
                    waiting.extend(around)
        return False


def _common_space(first: _Group, second: _Group) -> _Shape | None:
    """The space of two groups together: the same, or that of one where the other computes one element a row."""
    if first.space == second.space:
        return first.space
    for large, small in ((first, second), (second, first)):
        if small.space == (*large.space[:-1], 1) and large.reducing and not small.reducing:
            return large.space
    return None


def _space(node: Node) -> _Shape | None:
    """The space that a node computes in; None if it belongs into no group."""
    if any(node.stores) or any(value.type.rank == 0 for value in node.outputs):
        return None
    if node.op.kind is Kind.POINTWISE and node.op.name not in _MIXES:
        return node.outputs[0].shape
    return _row_space(node) if node.op.kind is Kind.REDUCTION else None


def _row_space(node: Node) -> _Shape | None:
    """The shape of what a reduction reads, if it goes along the last axis and keeps the rows."""
    x = node.input_type(0)
    assert x is not None
    last = (x.rank - 1, -1)
    name, attributes = node.op.name, node.attributes
    if name in ("layer_norm", "rms_norm"):
        whole = attributes["axes"] == 1
    elif name in ("adaptive_layer_norm", "gated_residual_adaptive_layer_norm"):
        whole = True
    elif name in ("softmax", "log_softmax"):
        whole = attributes["axis"] in last
    else:
        axes = attributes.get("axes", ())
        whole = name in ("sum", "mean", "max", "min") and len(axes) == 1 and axes[0] in last and attributes["keepdims"]
    return x.shape if whole and 0 < x.shape[-1] <= ROW else None


class _Body:
    """The graph of a group while it is written."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._builder = Builder()
        self._inside: dict[Value, Value] = {}
        self._given: dict[tuple[Value, View | None], Value] = {}
        self.operands: list[tuple[Value, View | None]] = []

    def add(self, node: Node) -> None:
        self._builder.origin = node.origin
        inputs = [self._input(node, position) for position in range(len(node.inputs))]
        self._inside.update(zip(node.outputs, self._builder.add(node.op, inputs, dict(node.attributes)), strict=True))

    def graph(self, results: list[Value]) -> Graph:
        return self._builder.build(*(self._builder.tensor(self._inside[value]) for value in results))

    def _input(self, node: Node, position: int) -> Value | None:
        value, view = node.inputs[position], node.view(position)
        if value is None or value in self._inside:
            return None if value is None else self._inside[value]
        producer = self._editor.producer(value)
        if producer is not None and producer.op.name == "constant" and value.type.size == 1 and view is None:
            self._inside[value] = self._builder.add(producer.op, (), dict(producer.attributes))[0]
            return self._inside[value]
        key = (self._editor.resolve(value), view)
        if key not in self._given:
            kind = node.input_type(position)
            assert kind is not None
            self._given[key] = self._builder.input(f"x_{len(self.operands)}", kind.shape, kind.dtype).value
            self.operands.append(key)
        return self._given[key]
