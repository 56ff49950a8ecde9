"""group_linear: products that differ in their weights alone become one product of groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from jitinfer.graph import ops
from jitinfer.graph.builder import Tensor
from jitinfer.passes.editor import Editor
from jitinfer.passes.merge_linear import mergeable
from jitinfer.passes.rewrite import GraphPass, graph_pass
from jitinfer.passes.weight_prologue import weight_values

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence, Set

    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node, Value

POINTWISE = frozenset(
    ["add", "subtract", "multiply", "divide", "maximum", "minimum", "silu", "gelu", "relu", "sigmoid", "tanh", "cast"]
)
"""Ops on the way to a product that can be applied to all groups at once: they broadcast by NumPy's rules."""


@graph_pass("group_linear")
class GroupLinear(GraphPass):
    """linear(x_1, w_1), ..., linear(x_G, w_G)  ->  linear of [G, ..., K] by [G, K, N]

    Where all x_i come from the same values in the same way, through weights of their own: a transformer that embeds
    the timestep anew in each block (Peebles and Xie, 2023, as ppdiffusers writes it) has one product for all of its
    modulations. What leads to the products is grouped with them: embeddings, products, sums, activations. Nothing but
    weights is copied, in the prologue.
    """

    def run(self, graph: Graph) -> tuple[Graph, int]:
        fixed = weight_values(graph)
        forms = _Forms(graph, fixed)
        alike: dict[Hashable, list[Node]] = defaultdict(list)
        met: Counter[Hashable] = Counter()
        for node in graph.nodes:
            if mergeable(node, fixed):
                form = forms.of(node.output)
                same = (form, node.inputs[0])  # products of one operand go into groups of their own
                alike[form, met[same]].append(node)
                met[same] += 1
        groups = _Groups(Editor(graph), fixed)
        count = 0
        for nodes in alike.values():
            if len({node.inputs[0] for node in nodes}) > 1:
                count += groups.together([node.output for node in nodes]) is not None
        return (groups.editor.finish(), count) if count else (graph, 0)


class _Forms:
    """How values are computed, weights left aside: two have the same number if they differ in weights alone."""

    def __init__(self, graph: Graph, fixed: Set[Value]) -> None:
        self._fixed = fixed
        self._producers = graph.producers
        self._numbers: dict[Hashable, int] = {}
        self._of: dict[Value, int] = {}
        for node in graph.nodes:
            for value in node.outputs:
                self.of(value)

    def of(self, value: Value) -> int:
        if value not in self._of:
            self._of[value] = self._numbers.setdefault(self._description(value), len(self._numbers))
        return self._of[value]

    def _description(self, value: Value) -> Hashable:
        if value in self._fixed:
            return value.type
        node = self._producers.get(value)
        if node is None or not _groupable(node, self._fixed):
            return value
        operands = tuple(None if each is None else self.of(each) for each in node.inputs)
        return node.op.name, tuple(node.attributes.items()), value.type, operands


def _groupable(node: Node, fixed: Set[Value]) -> bool:
    if node.op.name == "gather":
        table, indices = node.inputs
        assert table is not None
        return node.plain and table in fixed and len(table.shape) == 2 and node.axis == 0 and indices not in fixed
    return mergeable(node, fixed) or (node.op.name in POINTWISE and node.plain)


class _Groups:
    """Values put together, as parts of tensors [G, ...]."""

    def __init__(self, editor: Editor, fixed: Set[Value]) -> None:
        self.editor = editor
        self._fixed = fixed
        self._place: dict[Value, tuple[Tensor, int]] = {}
        self._producers: Mapping[Value, Node] = {value: node for node in editor.nodes() for value in node.outputs}

    def together(self, values: Sequence[Value]) -> Tensor | None:
        """[G, ...] of G values of one form. None where some of them are parts of another tensor already."""
        known = [self._place.get(value) for value in values]
        if any(known):
            return self._part(known)
        nodes = [self._producers[value] for value in values]
        self.editor.builder.origin = nodes[0].origin
        grouped = self._grouped(nodes)
        if grouped is None:
            return None
        for position, value in enumerate(values):
            self._place[value] = (grouped, position)
            part = ops.slice(
                grouped,
                starts=(position, *[0] * len(value.shape)),
                stops=(position + 1, *value.shape),
                steps=(1,) * (len(value.shape) + 1),
            )
            self.editor.replace(value, ops.reshape(part, shape=value.shape).value)
        return grouped

    def _part(self, known: Sequence[tuple[Tensor, int] | None]) -> Tensor | None:
        """Groups that stand together in one tensor already, in this order."""
        first = known[0]
        if first is None:
            return None
        whole, start = first
        if any(each != (whole, start + i) for i, each in enumerate(known)):
            return None
        if len(known) == whole.shape[0]:
            return whole
        rest = [0] * (len(whole.shape) - 1)
        stops = (start + len(known), *whole.shape[1:])
        part: Tensor = ops.slice(whole, starts=(start, *rest), stops=stops, steps=(1, *[1] * len(rest)))
        return part

    def _grouped(self, nodes: Sequence[Node]) -> Tensor | None:
        op = nodes[0].op.name
        weight = {"gather": 0, "linear": 1}.get(op)
        if weight is not None and len({node.inputs[weight] for node in nodes}) < len(nodes):
            return None  # a weight that several share would be copied
        if op == "gather":
            return self._gather(nodes)
        return self._linear(nodes) if op == "linear" else self._pointwise(nodes)

    def _gather(self, nodes: Sequence[Node]) -> Tensor | None:
        """Rows of all tables at once."""
        if len({node.inputs[1] for node in nodes}) > 1:
            return None
        tables = ops.concat(*self._tensors(nodes, 0), axis=1)
        return _groups_first(ops.gather(tables, self._tensors(nodes, 1)[0], axis=0), len(nodes))

    def _linear(self, nodes: Sequence[Node]) -> Tensor | None:
        first = nodes[0]
        xs = [value for value in (node.inputs[0] for node in nodes) if value is not None]
        if len(set(xs)) == 1:
            weight = ops.concat(*self._tensors(nodes, 1), axis=0 if first.transpose_weight else 1)
            bias = None if first.operand("bias") is None else ops.concat(*self._tensors(nodes, 2), axis=0)
            (x, *_) = self._tensors(nodes, 0)
            return _groups_first(ops.linear(x, weight, bias, **first.attributes), len(nodes))
        grouped = self._operand(nodes, 0, len(xs[0].shape))
        if grouped is None:
            return None
        bias = None if first.operand("bias") is None else self._stacked(nodes, 2, 1)
        result: Tensor = ops.linear(grouped, self._stacked(nodes, 1, 2), bias, **first.attributes)
        return result

    def _pointwise(self, nodes: Sequence[Node]) -> Tensor | None:
        operands = []
        for position, value in enumerate(nodes[0].inputs):
            shared = all(node.inputs[position] is value for node in nodes)
            if shared:
                operands.append(self._tensors(nodes, position)[0])
                continue
            grouped = self._operand(nodes, position, len(nodes[0].output.shape))
            if grouped is None:
                return None
            operands.append(grouped)
        result: Tensor = getattr(ops, nodes[0].op.name)(*operands, **nodes[0].attributes)
        return result

    def _operand(self, nodes: Sequence[Node], position: int, rank: int) -> Tensor | None:
        """[G, ...] of an operand that differs from group to group, with `rank` axes after the first."""
        values = [value for value in (node.inputs[position] for node in nodes) if value is not None]
        if values[0] in self._fixed:
            return self._stacked(nodes, position, rank)
        grouped = self.together(values)
        return None if grouped is None else _of_rank(grouped, rank)

    def _tensors(self, nodes: Sequence[Node], position: int) -> list[Tensor]:
        values = [node.inputs[position] for node in nodes]
        return [Tensor(self.editor.builder, self.editor.resolve(value)) for value in values if value is not None]

    def _stacked(self, nodes: Sequence[Node], position: int, rank: int) -> Tensor:
        """[G, ...] of weights, with as many axes after the first as `rank` says."""
        rows = [ops.reshape(tensor, shape=(1, *tensor.shape)) for tensor in self._tensors(nodes, position)]
        return _of_rank(ops.concat(*rows, axis=0), rank)


def _groups_first(x: Tensor, groups: int) -> Tensor:
    """[..., G * N] -> [G, ..., N]"""
    *outer, width = x.shape
    apart = ops.reshape(x, shape=(*outer, groups, width // groups))
    rank = len(outer)
    turned: Tensor = ops.transpose(apart, permutation=(rank, *range(rank), rank + 1))
    return turned


def _of_rank(x: Tensor, rank: int) -> Tensor:
    """[G, ...] with axes of size one after the first, so that `rank` axes follow it."""
    missing = rank - (len(x.shape) - 1)
    if not missing:
        return x
    reshaped: Tensor = ops.reshape(x, shape=(x.shape[0], *[1] * missing, *x.shape[1:]))
    return reshaped
