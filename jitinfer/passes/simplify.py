"""simplify: operations that change nothing go, chains of views become one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jitinfer.graph.op import op_named
from jitinfer.graph.types import exact_cast
from jitinfer.passes.editor import Editor
from jitinfer.passes.pattern import uniform
from jitinfer.passes.rewrite import GraphPass, graph_pass

if TYPE_CHECKING:
    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node, Value

Rule = Callable[[Editor, "Node"], "Value | None"]


@graph_pass("simplify")
class Simplify(GraphPass):
    """Views that change nothing, views of views, casts to the same dtype, neutral numbers go.

    Each rule says what a node may be replaced by; None where it says nothing.
    """

    def run(self, graph: Graph) -> tuple[Graph, int]:
        total = 0
        while True:
            editor = Editor(graph)
            count = 0
            for node in editor.nodes():
                rule = RULES.get(node.op.name)
                if rule is None or not node.plain:
                    continue
                editor.builder.origin = node.origin
                new = rule(editor, node)
                if new is not None and new.type == node.output.type:
                    editor.replace(node.output, new)
                    count += 1
            if not count:
                return graph, total
            graph, total = editor.finish(), total + count


def _source(editor: Editor, node: Node) -> Value:
    (value,) = (each for each in editor.inputs(node)[:1] if each is not None)
    return value


def _only_op(editor: Editor, value: Value, name: str) -> Node | None:
    producer = editor.producer(value)
    return producer if producer is not None and producer.op.name == name and producer.plain else None


def reshape(editor: Editor, node: Node) -> Value | None:
    source = _source(editor, node)
    if source.shape == node.output.shape:
        return source
    before = _only_op(editor, source, "reshape")
    if before is None:
        return None
    return editor.builder.add(node.op, (_source(editor, before),), {"shape": node.output.shape})[0]


def transpose(editor: Editor, node: Node) -> Value | None:
    source, permutation = _source(editor, node), node.permutation
    if permutation == tuple(range(len(permutation))):
        return source
    before = _only_op(editor, source, "transpose")
    if before is not None:
        composed = tuple(before.permutation[axis] for axis in permutation)
        return editor.builder.add(node.op, (_source(editor, before),), {"permutation": composed})[0]
    moved = [axis for axis in permutation if source.shape[axis] != 1]
    if moved == sorted(moved):  # only axes of size one change places
        return editor.builder.add(op_named("reshape"), (source,), {"shape": node.output.shape})[0]
    return None


def same_type(editor: Editor, node: Node) -> Value | None:
    source = _source(editor, node)
    return source if source.type == node.output.type else None


def cast(editor: Editor, node: Node) -> Value | None:
    """cast(cast(x)) is one cast where the first changes no number."""
    source = _source(editor, node)
    if source.type == node.output.type:
        return source
    before = _only_op(editor, source, "cast")
    if before is None:
        return None
    original = _source(editor, before)
    if not exact_cast(original.dtype, source.dtype):
        return None
    if original.type == node.output.type:
        return original
    return editor.builder.add(node.op, (original,), {"dtype": node.dtype})[0]


def slice_(editor: Editor, node: Node) -> Value | None:
    source = _source(editor, node)
    return source if source.shape == node.output.shape and all(step == 1 for step in node.steps) else None


def neutral(number: float, *, either_side: bool) -> Rule:
    """x * 1, x + 0, x - 0, x / 1: equal to x, but that -0.0 + 0.0 is 0.0, which compares equal."""

    def rule(editor: Editor, node: Node) -> Value | None:
        left, right = editor.inputs(node)
        assert left is not None
        assert right is not None
        if uniform(editor, right) == number:
            return left
        if either_side and uniform(editor, left) == number:
            return right
        return None

    return rule


RULES: dict[str, Rule] = {
    "reshape": reshape,
    "transpose": transpose,
    "cast": cast,
    "broadcast_to": same_type,
    "slice": slice_,
    "add": neutral(0.0, either_side=True),
    "subtract": neutral(0.0, either_side=False),
    "multiply": neutral(1.0, either_side=True),
    "divide": neutral(1.0, either_side=False),
}
