"""A node's operands and results as a kernel sees them: pointer, shape, strides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.graph.types import itemsize
from jitinfer.graph.view import View
from jitinfer.kernels.family import TypedPointer, input_name, output_name
from jitinfer.runtime.plan import Pointer

if TYPE_CHECKING:
    from jitinfer.graph import Node


@dataclass(frozen=True)
class Strided:
    """Elements of `dtype` in one of a candidate's buffers, through a view of that buffer."""

    buffer: str
    dtype: str
    view: View

    @property
    def pointer(self) -> TypedPointer:
        """To the view's first element."""
        return TypedPointer(Pointer(self.buffer, self.view.offset * itemsize(self.dtype)), self.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape

    @property
    def strides(self) -> tuple[int, ...]:
        """In elements."""
        return self.view.strides

    def broadcast_to(self, shape: tuple[int, ...]) -> Strided:
        return Strided(self.buffer, self.dtype, self.view.broadcast_to(shape))

    def reshape(self, shape: tuple[int, ...]) -> Strided | None:
        """None where no strides can say that."""
        view = self.view.reshape(shape)
        return None if view is None else Strided(self.buffer, self.dtype, view)


def operand(node: Node, name: str) -> Strided | None:
    """The operand of that name, as the op sees it; None for an optional one that is absent."""
    position = node.op.position(name)
    value = node.inputs[position] if position < len(node.inputs) else None
    if value is None:
        return None
    return Strided(input_name(position), value.dtype, node.view(position) or View.of(value.shape))


def result(node: Node, position: int, shape: tuple[int, ...]) -> Strided | None:
    """Where a result of `shape` is written; None where its store is not one strided view of that shape."""
    value = node.outputs[position]
    view = node.store(position) or View.of(value.shape)
    return Strided(output_name(position), value.dtype, view).reshape(shape)
