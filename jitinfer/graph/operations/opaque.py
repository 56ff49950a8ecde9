"""Ops that only Paddle knows: a graph holds them, an engine hands them over."""

from __future__ import annotations

import json
from typing import Any

from jitinfer.errors import GraphError
from jitinfer.graph.op import Kind, Op, register, require
from jitinfer.graph.types import TensorType


class PaddleOp(Op):
    """Paddle's operator `name`, such as "pd_op.unique", with its attributes as JSON and the types of its results."""

    name = "paddle"
    kind = Kind.OPAQUE

    def infer(
        self, *xs: TensorType, operator: str, attributes: str = "{}", types: tuple[tuple[tuple[int, ...], str], ...]
    ) -> tuple[TensorType, ...]:
        try:
            json.loads(attributes)
        except ValueError:
            require(False, "its attributes are no JSON")
        return tuple(TensorType(tuple(shape), dtype) for shape, dtype in types)

    def evaluate(self, *_: Any, operator: str, **__: Any) -> Any:
        raise GraphError(f"{operator} has no reference: only Paddle can run it")


register(PaddleOp())
