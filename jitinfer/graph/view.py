"""Strided views: how an operand is read, or a result written, without a copy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jitinfer.graph.types import contiguous_strides


@dataclass(frozen=True)
class View:
    """Element `[i, j, ...]` of the view is element `offset + i * strides[0] + j * strides[1] + ...` of the buffer.

    Strides and offset are in elements. A stride of 0 repeats (a broadcast), a negative one reads backwards.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    def __str__(self) -> str:
        return f"[{list_text(self.shape)}; {list_text(self.strides)}; {self.offset}]"

    @staticmethod
    def of(shape: tuple[int, ...]) -> View:
        """The view that a whole row-major tensor is of itself."""
        return View(shape, contiguous_strides(shape))

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def within(self, elements: int) -> bool:
        """Whether every element that it reads is one of a buffer of so many."""
        if self.size == 0:
            return True
        steps = [(dim - 1) * stride for dim, stride in zip(self.shape, self.strides, strict=True)]
        lowest, highest = (self.offset + sum(pick(step, 0) for step in steps) for pick in (min, max))
        return lowest >= 0 and highest < elements

    def distinct(self) -> bool:
        """Whether no element stands in it twice, by the strides alone: each must pass all that smaller ones reach."""
        reach = 0
        for stride, dim in sorted((abs(s), d) for d, s in zip(self.shape, self.strides, strict=True) if d > 1):
            if stride <= reach:
                return False
            reach += stride * (dim - 1)
        return True

    def contiguous(self) -> bool:
        """Whether it reads its elements in row-major order without gaps (its offset may be anything)."""
        wanted = contiguous_strides(self.shape)
        return all(
            dim == 1 or stride == want for dim, stride, want in zip(self.shape, self.strides, wanted, strict=True)
        )

    def whole(self, shape: tuple[int, ...]) -> bool:
        """Whether it is nothing but the row-major tensor of `shape` itself."""
        return self.shape == shape and self.offset == 0 and self.contiguous()

    def transpose(self, permutation: tuple[int, ...]) -> View:
        return View(
            tuple(self.shape[axis] for axis in permutation),
            tuple(self.strides[axis] for axis in permutation),
            self.offset,
        )

    def slice(self, starts: tuple[int, ...], stops: tuple[int, ...], steps: tuple[int, ...]) -> View:
        """Per axis, as `range(start, stop, step)`; a step may be negative, with a stop of -1 for "to the first"."""
        offset = self.offset + sum(start * stride for start, stride in zip(starts, self.strides, strict=True))
        shape = tuple(len(range(*bounds)) for bounds in zip(starts, stops, steps, strict=True))
        return View(shape, tuple(s * step for s, step in zip(self.strides, steps, strict=True)), offset)

    def broadcast_to(self, shape: tuple[int, ...]) -> View:
        """NumPy's rules; `shape` must be one that this view broadcasts to."""
        lead = len(shape) - len(self.shape)
        strides = tuple(
            0 if axis < lead or (self.shape[axis - lead] == 1 and dim != 1) else self.strides[axis - lead]
            for axis, dim in enumerate(shape)
        )
        return View(shape, strides, self.offset)

    def reshape(self, shape: tuple[int, ...]) -> View | None:
        """The same elements in the same order under another shape; None where no strides can say that."""
        if math.prod(shape) != self.size:
            raise ValueError(f"a view of {self.shape} has not the size of {shape}")
        if self.size == 0:
            return View(shape, contiguous_strides(shape), self.offset)
        merged = _merge(self.shape, self.strides)
        strides: list[int] = []
        group = 0
        left = merged[0][0] if merged else 1
        for dim in shape:
            if dim == 1:
                strides.append(0)
                continue
            while left == 1 and group + 1 < len(merged):
                group += 1
                left = merged[group][0]
            if left % dim:
                return None
            left //= dim
            strides.append(merged[group][1] * left)
        return View(shape, _natural_unit_strides(shape, strides), self.offset)

    def compose(self, inner: View, shape: tuple[int, ...]) -> View | None:
        """This view of a buffer, read again through `inner`, which takes it for a row-major tensor of `shape`.

        None where the result is not one strided view of the buffer.
        """
        if self.contiguous():
            return View(inner.shape, inner.strides, self.offset + inner.offset)
        return _through(self, inner)


def _through(outer: View, inner: View) -> View | None:
    """Each axis of `inner` must walk along one axis of `outer` (after merging), and never past its end."""
    if inner.size == 0:
        return View(inner.shape, inner.strides, outer.offset)
    groups = _merge(outer.shape, outer.strides)
    sizes = [size for size, _ in groups]
    steps = contiguous_strides(tuple(sizes))
    reach = [0] * len(groups)
    rest, offset = inner.offset, outer.offset
    for position, step in enumerate(steps):
        reach[position], rest = divmod(rest, step)
        offset += reach[position] * groups[position][1]
        if reach[position] >= sizes[position]:
            return None
    lowest = list(reach)
    strides = []
    for dim, stride in zip(inner.shape, inner.strides, strict=True):
        if dim == 1 or stride == 0:
            strides.append(0)
            continue
        walked = [p for p, step in enumerate(steps) if abs(stride) % step == 0 and sizes[p] > 1]
        if not walked:
            return None
        position = walked[0]
        count = stride // steps[position]
        if count > 0:
            reach[position] += count * (dim - 1)
        else:
            lowest[position] += count * (dim - 1)
        strides.append(count * groups[position][1])
    if any(end >= size for end, size in zip(reach, sizes, strict=True)) or any(low < 0 for low in lowest):
        return None
    return View(inner.shape, tuple(strides), offset)


def _merge(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """Neighbouring axes that together walk with one stride, as one: (size, stride)."""
    groups: list[tuple[int, int]] = []
    for dim, stride in zip(shape, strides, strict=True):
        if dim == 1:
            continue
        if groups and groups[-1][1] == dim * stride:
            groups[-1] = (groups[-1][0] * dim, stride)
        else:
            groups.append((dim, stride))
    return groups


def _natural_unit_strides(shape: tuple[int, ...], strides: list[int]) -> tuple[int, ...]:
    """Strides of axes of size 1 mean nothing: give them those of a row-major tensor, so that equal views look equal."""
    result = list(strides)
    below = 1
    for axis in range(len(shape) - 1, -1, -1):
        if shape[axis] == 1:
            result[axis] = below
        below = result[axis] * shape[axis]
    return tuple(result)


def list_text(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))
