"""A group of ops that one generated kernel computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.graph.evaluation import evaluate_unchecked
from jitinfer.graph.op import Kind, Op, register, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph.graph import Graph
    from jitinfer.graph.types import TensorType

Array = Any
"""A NumPy array, of one of the dtypes that the graph has."""


class Group(Op):
    """The results of `body`, which takes the operands as its inputs, in one pass over memory.

    What is computed on the way never reaches memory; a kernel may keep it in float32 where the reference rounds it.
    """

    name = "group"
    kind = Kind.POINTWISE
    strided = True
    nested = True

    def infer(self, *xs: TensorType, body: Graph) -> tuple[TensorType, ...]:
        require([value.type for value in body.inputs] == list(xs), "its body does not take its operands")
        require(not body.weights, "its body has weights")
        return tuple(value.type for value in body.outputs)

    def evaluate(self, *xs: Array, body: Graph, arithmetic: str = "float32") -> tuple[Array, ...]:
        return tuple(evaluate_unchecked(body, xs, arithmetic))

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **attributes: Any) -> int:
        return int(attributes["body"].flops)


register(Group())
