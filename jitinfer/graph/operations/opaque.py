"""Ops that only Paddle knows: a graph holds them, an engine hands them over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jitinfer.errors import GraphError
from jitinfer.graph.op import Kind, Op, register, require
from jitinfer.graph.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence


class PaddleOp(Op):
    """Paddle's operator, such as "pd_op.unique", with its attributes as JSON and the types of its results.

    A dim of a result that depends on data is -1.
    """

    name = "paddle"
    kind = Kind.OPAQUE

    def infer(
        self, *xs: TensorType, operator: str, attributes: str = "{}", types: tuple[tuple[tuple[int, ...], str], ...]
    ) -> tuple[TensorType, ...]:
        try:
            json.loads(attributes)
        except ValueError:
            require(False, "its attributes are no JSON")
        require(all(min((*shape, 0)) >= -1 for shape, _ in types), "a dim is neither known nor -1")
        return tuple(TensorType(tuple(shape), dtype) for shape, dtype in types)

    def evaluate(self, *_: Any, operator: str, **__: Any) -> Any:
        raise GraphError(f"{operator} has no reference: only Paddle can run it")

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        """One for each element that is known to be there."""
        return sum(each.size for each in outputs if each.known)

    def bytes_moved(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        """Those of tensors whose size is known."""
        return sum(each.nbytes for each in (*inputs, *outputs) if each is not None and each.known)


register(PaddleOp())
