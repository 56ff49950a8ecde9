"""Products in parts of their sums: faster where a product has fewer tiles than the device has multiprocessors.

A product whose result is read by one norm alone can be computed in parts, each a product over some columns of x, side
by side; the norm then reads all of them, and adds them up. Whether the two are faster together in that way is a
question for the device: the product gains what the norm has to read more. (Split-K, as CUTLASS and cuBLASLt have it
within a product, needs a kernel more.)
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from jitinfer.graph.node import Value
from jitinfer.graph.op import op_named
from jitinfer.graph.types import TensorType
from jitinfer.graph.view import View
from jitinfer.kernels.family import families_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jitinfer.graph.node import Node
    from jitinfer.kernels.target import Target
    from jitinfer.lowering.choice import Choice, Work

TILE = 128
"""Rows and columns of a tile by which tensor cores are kept busy."""

FEW_TILES = 0.25
"""Of as many tiles as there are multiprocessors, at most: with more, cuBLASLt has found enough to do for all of them
(2.7 tiles for 10 multiprocessors gained nothing on an H100, half as many 4.6% of a whole model).
"""

LEAST_DEPTH = 512
"""Columns of x that a part has at least: fewer do not pay for a tile's beginning and end."""

_STEP = 64
"""Columns of x that kernels read at a time."""

_DTYPES = ("bfloat16", "float16", "float32")
"""Of products whose parts are as exact as they are, in float32."""

LEAST_SHARE = 0.03
"""Of the time of a product and a norm, to be gained: less is not told from noise."""


class SequenceTimer(Protocol):
    """Says how fast nodes are, one after the other."""

    most_parts: int
    """In which products are tried; 1: none are."""

    def times_of(self, sequences: Sequence[Work]) -> list[float]:
        """Microseconds of nodes with their kernels, of each sequence; infinities where there is no time to measure."""
        ...


@dataclass(frozen=True, eq=False)
class Question:
    """Whether `nodes`, a product in so many parts and a norm of them, take the places of a product and a norm.

    product, norm: their places among the nodes.
    """

    product: int
    norm: int
    parts: int
    nodes: tuple[Node, Node]


def questions(nodes: Sequence[Node], kept: Iterable[Value], target: Target, most: int) -> list[Question]:
    """What may be faster in 2 to `most` parts, of nodes in order; those about one product follow each other.

    kept: values that others read, too.
    """
    reads = Counter(value for node in nodes for value in node.inputs if value is not None)
    reads.update(kept)
    written = {value: position for position, node in enumerate(nodes) for value in node.outputs}
    found = []
    for position, norm in enumerate(nodes):
        if norm.op.name != "gated_residual_adaptive_layer_norm":
            continue
        x = norm.inputs[0]
        if x is None or x not in written or reads[x] > 1 or not _leaves_idle(nodes[written[x]], target):
            continue
        for parts in range(2, most + 1):
            both = _in_parts(nodes[written[x]], norm, parts)
            if both is not None and all(any(True for _ in families_for(node, target)) for node in both):
                found.append(Question(written[x], position, parts, both))
    return found


def answered(
    nodes: Sequence[Node], asked: Sequence[Question], choices: Mapping[Node, Choice], timer: SequenceTimer
) -> list[Question]:
    """Those whose nodes are faster than what they are to replace, one for each product at most.

    choices: for `nodes`, and for those of the questions.
    """

    def work(before: Sequence[Node], product: Node, norm: Node) -> Work:
        return [(node, choices[node]) for node in (*before, product, norm)]

    writers = {value: node for node in nodes for value in node.outputs}
    found = []
    for place, group in groupby(asked, lambda question: question.product):
        alternatives = list(group)
        product, norm = nodes[place], nodes[alternatives[0].norm]
        # What computes x comes first: x is then in the cache, as it is in the model.
        before = [writers[x] for x in product.inputs[:1] if x in writers]
        sequences = [work(before, product, norm), *(work(before, *each.nodes) for each in alternatives)]
        whole, *others = timer.times_of(sequences)
        best = min(range(len(others)), key=others.__getitem__)
        if math.isfinite(whole) and others[best] <= (1.0 - LEAST_SHARE) * whole:
            found.append(alternatives[best])
    return found


def replaced(nodes: Sequence[Node], parts: Mapping[int, int]) -> list[Node]:
    """`nodes` with products in parts, so many for each of these places of products, which `questions` named."""
    changed = list(nodes)
    readers = {node.inputs[0]: place for place, node in enumerate(nodes) if node.inputs}
    for product, count in parts.items():
        norm = readers[nodes[product].output]
        both = _in_parts(nodes[product], nodes[norm], count)
        assert both is not None
        changed[product], changed[norm] = both
    return changed


def _leaves_idle(product: Node, target: Target) -> bool:
    """Whether its tiles occupy few of the multiprocessors."""
    if product.op.name != "linear" or product.output.type.size == 0:
        return False
    columns = product.output.shape[-1]
    rows = product.output.type.size // columns
    return rows >= TILE and -(-rows // TILE) * -(-columns // TILE) <= FEW_TILES * target.sm_count


def _in_parts(product: Node, norm: Node, parts: int) -> tuple[Node, Node] | None:
    """None where they cannot be in so many parts."""
    x, weight = (product.view(i) or View.of(value.shape) for i, value in enumerate(product.inputs[:2]) if value)
    y, residual = product.output, norm.inputs[1]
    bias = product.inputs[2] if len(product.inputs) > 2 else None
    depth = x.shape[-1]
    bare = product.activation == "none" and product.contraction == 1 and not any(product.inputs[3:])
    plain = len(weight.shape) == 2 and not product.unrounded and not any(product.stores)
    cut = depth % (parts * _STEP) == 0 and depth // parts >= LEAST_DEPTH
    if not (bare and plain and cut and y.dtype in _DTYPES):
        return None
    seen = norm.view(0) or View.of(y.shape)
    if residual is None or norm.input_type(1) != y.type.with_shape(seen.shape) or not _whole_rows(seen, y.shape[-1]):
        return None
    summed = Value(TensorType((parts, *y.shape), "float32"), y.name)
    first = dataclasses.replace(
        product,
        inputs=product.inputs[:2],
        attributes={**product.attributes, "unrounded": True},
        outputs=(summed,),
        views=(_cut(x, -1, parts), _cut(weight, -1 if product.transpose_weight else -2, parts)),
    )
    others = [norm.inputs[i] if i < len(norm.inputs) else None for i in range(1, 7)]
    second = dataclasses.replace(
        norm,
        op=op_named("gated_residual_adaptive_layer_norm_of_parts"),
        inputs=(summed, *others, bias),
        views=(
            View((parts, *seen.shape), (y.type.size, *seen.strides), seen.offset),
            *(norm.view(i) for i in range(1, 7)),
            product.view(2),
        ),
    )
    return first, second


def _whole_rows(seen: View, columns: int) -> bool:
    """Whether its rows are those of a row-major matrix with so many columns, to which a bias belongs."""
    whole = seen.shape[-1] == columns and (columns == 1 or seen.strides[-1] == 1)
    return whole and all(step % columns == 0 for step in (seen.offset, *seen.strides[:-1]))


def _cut(view: View, axis: int, parts: int) -> View:
    """One of its axes in so many parts, which become the first axis."""
    axis %= len(view.shape)
    shape, (size, stride) = list(view.shape), (view.shape[axis], view.strides[axis])
    shape[axis] = size // parts
    return View((parts, *shape), (size // parts * stride, *view.strides), view.offset)
