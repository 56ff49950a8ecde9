"""What a node takes of a machine, whatever kernel computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.graph.op import Kind

if TYPE_CHECKING:
    from jitinfer.graph.node import Node, Value
    from jitinfer.graph.types import TensorType


def flops(node: Node) -> int:
    """Multiplications and additions of one evaluation, those of results that are parts of a larger tensor included."""
    return node.op.flops(node.input_types(), _results(node), **node.attributes)


def bytes_moved(node: Node) -> int:
    """Bytes that have to be read and written at least where the node is computed, views included.

    An operand that is read twice counts once, and through a view no more than the view reads.
    """
    kinds, results = node.input_types(), _results(node)
    read: dict[Value, int] = {}
    for value, kind in zip(node.inputs, kinds, strict=True):
        if value is not None and kind is not None:
            read[value] = min(read.get(value, 0) + kind.nbytes, value.type.nbytes)
    touched = sum(read.values()) + sum(kind.nbytes for kind in results)
    if node.op.kind is Kind.VIEW:  # a kernel that computes it copies
        return touched
    return min(touched, node.op.bytes_moved(kinds, results, **node.attributes))


def _results(node: Node) -> tuple[TensorType, ...]:
    """Their types as the op makes them, which those of the values are not where a store puts them into others."""
    return node.op.output_types(node.input_types(), node.attributes)
