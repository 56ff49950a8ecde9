"""What the bulk copy engine (TMA) can read of a stack of matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.graph.types import itemsize
from jitinfer.kernels.triton.epilogue import seven
from jitinfer.runtime.plan import TensorMap

if TYPE_CHECKING:
    from jitinfer.kernels.contractions import Axes, Matrices

COPY_BYTES = 128
"""Of one row, that one copy moves at most where it swizzles."""
_ALIGNMENT = 16
_LARGEST_DIM = 2**31 - 1
_SWIZZLES = {32: 1, 64: 2, 128: 3}


@dataclass(frozen=True)
class Layers:
    """Layers of [outer, inner] of which inner is contiguous; strides in elements. turned: inner are the rows.

    find: the axes of the stack with, for each, how many layers one step goes.
    """

    layers: int
    outer: int
    inner: int
    layer_stride: int
    outer_stride: int
    turned: bool
    find: Axes

    @property
    def numbers(self) -> tuple[int, ...]:
        """The first five fields, and `find` as seven numbers."""
        return (self.layers, self.outer, self.inner, self.layer_stride, self.outer_stride, *seven(self.find))

    @staticmethod
    def one_copy(inner: int, size: int = 2) -> bool:
        """Whether tiles of so many contiguous elements of `size` bytes are moved by one copy."""
        return inner * size <= COPY_BYTES

    def tensor_map(self, matrices: Matrices, outer: int, inner: int) -> TensorMap:
        """For tiles of [outer, inner]."""
        shape, strides, box = (self.outer, self.inner), (self.outer_stride, 1), (outer, inner)
        if self.layers > 1:
            shape, strides, box = (self.layers, *shape), (self.layer_stride, *strides), (1, *box)  # type: ignore[assignment]
        swizzle = _SWIZZLES[inner * itemsize(matrices.dtype)]
        return TensorMap(matrices.pointer.pointer, matrices.dtype, shape, strides, box, swizzle)


def layers_of(matrices: Matrices) -> Layers | None:
    """None where the engine cannot read them: it wants 16-bit elements here, and addresses of multiples of 16."""
    size = itemsize(matrices.dtype)
    if size != 2 or matrices.offset * size % _ALIGNMENT:
        return None
    for turned, outer, inner in ((False, matrices.rows, matrices.columns), (True, matrices.columns, matrices.rows)):
        if len(inner) == 1 and inner[0][1] == 1 and len(outer) <= 1:
            return _layers(matrices.stack, outer, inner[0][0], turned, _ALIGNMENT // size)
    return None


def _layers(stack: Axes, outer: Axes, inner: int, turned: bool, step: int) -> Layers | None:
    count, stride = outer[0] if outer else (1, -(-inner // step) * step)
    walked = [(size, along) for size, along in stack if along]
    if stride < inner or stride % step or len(walked) > 1:
        return None
    layers, layer_stride = walked[0] if walked else (1, 0)
    if layer_stride < 0 or layer_stride % step or max(count, inner, layers) > _LARGEST_DIM:
        return None
    find = tuple((size, int(along != 0)) for size, along in stack)
    return Layers(layers, count, inner, layer_stride, stride, turned, find)
