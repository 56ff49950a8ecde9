"""Python's operators over anything that ops can be applied to: tensors of a graph, and patterns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from jitinfer.errors import GraphError
from jitinfer.graph.op import op_named, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitinfer.graph.node import Attribute
    from jitinfer.graph.op import Op


class Arithmetic(ABC):
    """Operands of expressions."""

    __slots__ = ()

    @abstractmethod
    def apply(self, op: Op, operands: Sequence[Any], attributes: dict[str, Attribute]) -> Any:
        """The result of `op` over `operands`, of which this is one."""

    def __add__(self, other: Any) -> Any:
        return ops.add(self, other)

    def __radd__(self, other: Any) -> Any:
        return ops.add(other, self)

    def __sub__(self, other: Any) -> Any:
        return ops.subtract(self, other)

    def __rsub__(self, other: Any) -> Any:
        return ops.subtract(other, self)

    def __mul__(self, other: Any) -> Any:
        return ops.multiply(self, other)

    def __rmul__(self, other: Any) -> Any:
        return ops.multiply(other, self)

    def __truediv__(self, other: Any) -> Any:
        return ops.divide(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return ops.divide(other, self)

    def __pow__(self, other: Any) -> Any:
        return ops.power(self, other)

    def __neg__(self) -> Any:
        return ops.negative(self)

    def __matmul__(self, other: Any) -> Any:
        return ops.matmul(self, other)


class Functions:
    """Every op of the table as a function: `ops.softmax(x, axis=-1)`, operands by position or by name."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        op = op_named(name)

        def function(*operands: Any, **named: Any) -> Any:
            placed = list(operands)
            for position, operand in enumerate(op.operands):
                if operand.name in named:
                    placed.extend([None] * (position + 1 - len(placed)))
                    placed[position] = named.pop(operand.name)
            for each in placed:
                if isinstance(each, Arithmetic):
                    return each.apply(op, placed, named)
            raise GraphError(f"{name}: none of its operands belongs to a graph or a pattern")

        function.__name__ = name
        return function

    def __dir__(self) -> list[str]:
        return sorted(table())


ops = Functions()
