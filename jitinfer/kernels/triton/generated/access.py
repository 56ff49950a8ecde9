"""Where a program of a generated kernel finds its elements: axes in three roles, and offsets as text.

A kernel walks a space, a shape. Each axis is in one role: "batch" (one index a program), "row" or "column" (a block
of indices a program, the first and second axis of its blocks). The axes of one role are counted by one number, in
row-major order, from which every operand takes the indices that it needs, by divisors known when it is compiled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.kernels.operands import Strided

if TYPE_CHECKING:
    from collections.abc import Sequence

ROLES = ("batch", "row", "column")
LIMIT = 2**31
"""From here on, numbers need 64 bits."""


@dataclass(frozen=True)
class Space:
    """`shape`, its axes ordered by role: first those of "batch", then of "row", then of "column"."""

    shape: tuple[int, ...]
    batch_axes: int
    row_axes: int

    def axes(self, role: str) -> range:
        split = (0, self.batch_axes, self.batch_axes + self.row_axes, len(self.shape))
        position = ROLES.index(role)
        return range(split[position], split[position + 1])

    def count(self, role: str) -> int:
        return math.prod(self.shape[axis] for axis in self.axes(role))

    @property
    def wide(self) -> bool:
        """Whether its elements, padding included, cannot be counted by 32 bits."""
        return 2 * math.prod(self.shape) >= LIMIT

    def index(self, axis: int) -> str:
        """The index along `axis`."""
        strides = [0] * len(self.shape)
        strides[axis] = 1
        return " + ".join(self.terms(tuple(strides), wide=False)) or "tl.zeros([1, 1], tl.int32)"

    def roles(self, strides: Sequence[int]) -> set[str]:
        """Roles with an axis along which an operand of these strides varies."""
        return {role for role in ROLES for axis in self.axes(role) if strides[axis] != 0 and self.shape[axis] > 1}

    def terms(self, strides: Sequence[int], wide: bool) -> list[str]:
        """Whose sum is the offset of an operand of these strides."""
        found: list[str] = []
        for role in ROLES:
            axes = self.axes(role)
            found += _role_terms(
                role, _merged([self.shape[axis] for axis in axes], [strides[axis] for axis in axes]), wide
            )
        return found


def offset_of(space: Space, operand: Strided) -> str:
    """The sum of the terms; "" for an operand that is the same everywhere."""
    reach = sum((dim - 1) * abs(stride) for dim, stride in zip(operand.shape, operand.strides, strict=True))
    return " + ".join(space.terms(operand.strides, reach >= LIMIT))


def _role_terms(role: str, dims: list[tuple[int, int]], wide: bool) -> list[str]:
    terms = []
    divisor = 1
    for position in range(len(dims) - 1, -1, -1):
        dim, stride = dims[position]
        if stride:
            text = role if divisor == 1 else f"({role} // {divisor})"
            if position:
                text = f"({text} % {dim})"
            if wide:
                text += ".to(tl.int64)"
            terms.append(text if stride == 1 else f"{text} * {stride}")
        divisor *= dim
    return terms[::-1]


def _merged(dims: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Without axes of size 1; neighbours that are walked with one stride as one."""
    merged: list[tuple[int, int]] = []
    for dim, stride in zip(dims, strides, strict=True):
        if dim == 1:
            continue
        if merged and merged[-1][1] == dim * stride:
            merged[-1] = (merged[-1][0] * dim, stride)
        else:
            merged.append((dim, stride))
    return merged


def common_axes(tensors: Sequence[Strided]) -> list[Strided]:
    """Tensors of one shape under the fewest axes that still walk each with one stride; none of size 1."""
    shape = tensors[0].shape
    dims: list[int] = []
    walked: list[list[int]] = [[] for _ in tensors]
    for axis, dim in enumerate(shape):
        if dim == 1:
            continue
        steps = [each.strides[axis] for each in tensors]
        if dims and all(walk[-1] == dim * step for walk, step in zip(walked, steps, strict=True)):
            dims[-1] *= dim
            for walk, step in zip(walked, steps, strict=True):
                walk[-1] = step
        else:
            dims.append(dim)
            for walk, step in zip(walked, steps, strict=True):
                walk.append(step)
    return [
        Strided(each.buffer, each.dtype, type(each.view)(tuple(dims), tuple(walk), each.view.offset))
        for each, walk in zip(tensors, walked, strict=True)
    ]


def with_axis_split(tensor: Strided, axis: int, inner: int) -> Strided:
    """One axis as two, of which the second has `inner` elements; `inner` divides its size."""
    view = tensor.view
    shape = (*view.shape[:axis], view.shape[axis] // inner, inner, *view.shape[axis + 1 :])
    strides = (*view.strides[:axis], view.strides[axis] * inner, view.strides[axis], *view.strides[axis + 1 :])
    return Strided(tensor.buffer, tensor.dtype, type(view)(shape, strides, view.offset))


def permuted(tensor: Strided, order: Sequence[int]) -> Strided:
    return Strided(tensor.buffer, tensor.dtype, tensor.view.transpose(tuple(order)))
