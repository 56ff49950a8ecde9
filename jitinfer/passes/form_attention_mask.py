"""Masks of attention in the forms in which models write them: filled scores, filled masks, causal constants."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.arithmetic import ops
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.graph import nested_graphs
from jitinfer.graph.op import Kind
from jitinfer.graph.types import limits
from jitinfer.passes.editor import Editor
from jitinfer.passes.pattern import Match, constant, either
from jitinfer.passes.rewrite import GraphPass, RewritePass, graph_pass

if TYPE_CHECKING:
    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node, Value

Array = Any
"""A NumPy array, of one of the dtypes that the graph has."""

LARGEST = 1 << 28
"""Bytes up to which a mask is computed to look at it."""


def hides(number: float, dtype: str) -> bool:
    """Whether adding `number` to a score, or putting it in its place, makes the score's weight exactly zero.

    -inf does so beside any finite score; the lowest number of float32, and of dtypes that reach as far, as long as no
    difference of two scores is nearly as large, which would be an overflow itself. Of any other number, such as -10000
    or float16's lowest, that cannot be proved: a score that is as much larger than all visible ones would be seen in
    spite of it.
    """
    return number <= min(float(limits(dtype).min), -1e38)


@graph_pass("form_masked_scores")
class FormMaskedScores(RewritePass):
    """softmax(where(visible, scores, filler)) @ v  ->  softmax(scores + where(visible, 0, filler)) @ v, if it `hides`

    Equal to the bit beside finite scores, also in rows in which nothing is visible: the filler absorbs each score. Its
    result is the form that fuse_attention knows.
    """

    def pattern(self, visible: Any, hidden: Any, scores: Any, v: Any) -> Any:
        filler = constant(name="filler")
        kept, dropped = ops.where(visible, scores, filler), ops.where(hidden, filler, scores)
        return ops.matmul(ops.softmax(either(kept, dropped)), v)

    def where(self, m: Match) -> bool:
        filler = m.uniform("filler")
        fits = m.scores.shape == m.softmax.output.shape and m.scores.type.floating
        return fits and filler is not None and hides(filler, m.scores.dtype)

    def replace(self, m: Match) -> Any:
        zero, filler = (m.scores.builder.constant(number, m.scores.dtype) for number in (0.0, m.uniform("filler")))
        mask = ops.where(m.visible, zero, filler) if m.visible is not None else ops.where(m.hidden, filler, zero)
        weights = ops.softmax(m.scores + mask, **m.softmax.attributes)
        return ops.matmul(weights, m.v, **m.matmul.attributes)


@graph_pass("form_boolean_mask")
class FormBooleanMask(RewritePass):
    """attention with the mask where(visible, 0, -inf)  ->  attention with the mask `visible`

    Only of -inf: where nothing is visible, any other number gives all keys the same weight, and this gives nan.
    """

    def pattern(self, q: Any, k: Any, v: Any, visible: Any, hidden: Any) -> Any:
        zero, filler = constant(0.0), constant(-math.inf)
        mask = either(ops.where(visible, zero, filler), ops.where(hidden, filler, zero))
        return ops.attention(q, k, v, mask)

    def replace(self, m: Match) -> Any:
        visible = ops.logical_not(m.hidden) if m.visible is None else m.visible
        return ops.attention(m.q, m.k, m.v, visible, **m.attention.attributes)


@graph_pass("form_causal_attention")
class FormCausalAttention(GraphPass):
    """attention with a mask that hides exactly what comes later  ->  attention(causal=True) without it

    The mask must be a constant, or computed from constants alone, of any size: zero, or True, where key j is visible
    to query i, j <= i + kv_len - q_len, and elsewhere False or a number that `hides`. It is the same for all heads and
    all of the batch, and each query sees a key, or else the number would make a difference. A mask that hides nothing
    just goes. One that says more, such as which tokens are padding, stays whole.
    """

    def run(self, graph: Graph) -> tuple[Graph, int]:
        editor = Editor(graph)
        masks: dict[Value, Array | None] = {}
        count = 0
        for node in editor.nodes():
            mask = node.operand("mask") if node.op.name == "attention" and node.plain else None
            if mask is None:
                continue
            mask = editor.resolve(mask)
            if mask not in masks:
                masks[mask] = _computed(editor, mask)
            q, k, v = (editor.resolve(value) for value in node.inputs[:3] if value is not None)
            form = _form(masks[mask], mask.dtype, (q.shape[1], k.shape[1]))
            if form is not None:
                editor.builder.origin = node.origin
                attributes = {**node.attributes, "causal": node.causal or form == "causal"}
                editor.replace(node.output, editor.builder.add(node.op, (q, k, v), attributes)[0])
                count += 1
        return (editor.finish(), count) if count else (graph, 0)


def _form(mask: Array | None, dtype: str, lengths: tuple[int, int]) -> str | None:
    """Whether a mask hides nothing ("open"), or what comes later ("causal"); None for all others.

    `lengths`: of queries and keys.
    """
    if mask is None:
        return None
    mask = mask if dtype == "bool" else mask.astype("float32")  # NumPy cannot compare bfloat16
    visible = mask if dtype == "bool" else mask == 0
    if visible.all():
        return "open"
    if dtype != "bool" and not hides(float(mask[~visible].max()), dtype):
        return None
    if visible.ndim < 2 or visible.shape[-2:] != lengths or lengths[0] > lengths[1]:
        return None
    later = numpy.tri(*lengths, lengths[1] - lengths[0], dtype=numpy.bool_)
    return "causal" if (visible == later).all() else None


def _computed(editor: Editor, value: Value) -> Array | None:
    """What `value` is, if it depends on constants alone and nothing on the way is larger than `LARGEST`."""
    needed: set[Node] = set()
    waiting = [value]
    while waiting:
        node = editor.producer(waiting.pop())
        if node is None or not _evaluable(node):
            return None
        if node not in needed:
            needed.add(node)
            waiting.extend(operand for operand in node.inputs if operand is not None)
    values: dict[Value, Array] = {}
    for node in editor.nodes():
        if node in needed:
            arrays = [None if operand is None else values[operand] for operand in editor.inputs(node)]
            values.update(zip(node.outputs, evaluate_node(node, arrays), strict=True))
    return values[value]


def _evaluable(node: Node) -> bool:
    if node.op.kind in (Kind.OPAQUE, Kind.CONTROL) or any(nested_graphs(node)):
        return False
    return sum(value.type.nbytes for value in node.outputs) <= LARGEST
