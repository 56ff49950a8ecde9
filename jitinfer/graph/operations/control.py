"""Control flow: nodes that hold graphs. What a nested graph takes from around it, it takes as an input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import GraphError
from jitinfer.graph.evaluation import evaluate_unchecked
from jitinfer.graph.op import Kind, Op, register, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph.graph import Graph
    from jitinfer.graph.types import TensorType

Array = Any
"""A NumPy array, of one of the dtypes that the graph has."""

ENDLESS = 1_000_000
"""Rounds after which the reference gives up a loop."""


def _takes(graph: Graph, operands: Sequence[TensorType]) -> bool:
    return [value.type for value in graph.inputs] == list(operands) and not graph.weights


class Conditional(Op):
    """`then` of the operands where `condition` is true, else `otherwise` of the same operands."""

    name = "conditional"
    kind = Kind.CONTROL
    nested = True

    def infer(self, condition: TensorType, *xs: TensorType, then: Graph, otherwise: Graph) -> tuple[TensorType, ...]:
        require(condition.size == 1 and condition.dtype == "bool", "its condition is not one bool")
        require(_takes(then, xs) and _takes(otherwise, xs), "a branch does not take its operands")
        results = tuple(value.type for value in then.outputs)
        require(results == tuple(value.type for value in otherwise.outputs), "its branches give different types")
        return results

    def evaluate(
        self, condition: Array, *xs: Array, then: Graph, otherwise: Graph, arithmetic: str = "float32"
    ) -> tuple[Array, ...]:
        return tuple(evaluate_unchecked(then if condition.reshape(-1)[0] else otherwise, xs, arithmetic))

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **graphs: Any) -> int:
        """Those of the dearer branch."""
        dearer: int = max(graph.flops for graph in graphs.values())
        return dearer


class WhileLoop(Op):
    """While a bool holds, `body` gives its next value and the next values of the first `carried` operands.

    `running` is the bool's first value; the operands after the carried ones are the same in every round. The results
    are the carried values at the end.
    """

    name = "while_loop"
    kind = Kind.CONTROL
    nested = True

    def infer(self, running: TensorType, *xs: TensorType, body: Graph, carried: int) -> tuple[TensorType, ...]:
        require(running.size == 1 and running.dtype == "bool", "what it runs by is not one bool")
        require(0 <= carried <= len(xs) and _takes(body, xs), "its body does not take its operands")
        given = [value.type for value in body.outputs]
        require(given == [running, *xs[:carried]], "its body does not give what it takes")
        return tuple(xs[:carried])

    def evaluate(
        self, running: Array, *xs: Array, body: Graph, carried: int, arithmetic: str = "float32"
    ) -> tuple[Array, ...]:
        values, captured = list(xs[:carried]), xs[carried:]
        for _ in range(ENDLESS):
            if not numpy.reshape(running, -1)[0]:
                return tuple(values)
            running, *values = evaluate_unchecked(body, [*values, *captured], arithmetic)
        raise GraphError(f"a loop has not ended after {ENDLESS} rounds")

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **attributes: Any) -> int:
        """Those of one round."""
        return int(attributes["body"].flops)


register(Conditional())
register(WhileLoop())
