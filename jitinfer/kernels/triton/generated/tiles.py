"""How a space is cut into blocks, one for each program, and the lines that say which block is whose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import triton

from jitinfer.graph.types import itemsize
from jitinfer.graph.view import View
from jitinfer.kernels.operands import Strided
from jitinfer.kernels.triton.generated.access import Space, common_axes, permuted, with_axis_split
from jitinfer.kernels.triton.generated.block import Block, Kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

VECTOR = 16
"""Bytes that one thread moves at once, at most."""
TURNED = 64
"""Rows and columns of the block in which a transposition goes through shared memory."""


@dataclass(frozen=True)
class Tiling:
    """Blocks of `rows` by `columns` over `space`; `tensors`: the views in the order of the space's axes."""

    space: Space
    rows: int
    columns: int
    tensors: tuple[Strided, ...]

    @property
    def programs(self) -> int:
        return self.space.count("batch") * self.row_blocks * self.column_blocks

    @property
    def row_blocks(self) -> int:
        return -(-self.space.count("row") // self.rows)

    @property
    def column_blocks(self) -> int:
        return -(-self.space.count("column") // self.columns)

    def begin(self, kernel: Kernel, program: str = "tl.program_id(0)") -> Block:
        """Writes the indices of the program's block."""
        if self.space.wide:
            program = f"{program}.to(tl.int64)"
        kernel.line(f"program = {program}")
        across, down = self.column_blocks, self.row_blocks
        batched = self.space.count("batch") > 1
        kernel.line(f"column = {_start('program', 1, across, down > 1 or batched, self.columns)}[None, :]")
        kernel.line(f"row = {_start('program', across, down, batched, self.rows)}[:, None]")
        if batched:
            kernel.line(f"batch = program // {across * down}" if across * down > 1 else "batch = program")
        rows, columns = self.space.count("row"), self.space.count("column")
        return Block(
            kernel,
            self.space,
            self.rows,
            self.columns,
            str(rows) if rows % self.rows else "",
            str(columns) if columns % self.columns else "",
        )


def _start(program: str, divisor: int, blocks: int, modulo: bool, size: int) -> str:
    """The indices of the block of `size` that is number `program // divisor % blocks`."""
    indices = f"tl.arange(0, {size})"
    if blocks == 1:
        return indices
    number = program if divisor == 1 else f"({program} // {divisor})"
    number = f"({number} % {blocks})" if modulo else number
    return f"({number} * {size} + {indices})"


def tiling(tensors: Sequence[Strided], written: int, elements: int) -> Tiling:
    """For what computes each element from the elements at its place.

    tensors: of one shape, the last `written` of them results; elements: of a block, a power of 2. The axes are put
    in the order in which the first result lies in memory, and merged where all tensors allow it; columns are those
    that it walks with the smallest stride, rows those that another tensor walks so, if one does.
    """
    first = tensors[len(tensors) - written]
    order = sorted(range(len(first.shape)), key=lambda axis: -abs(first.strides[axis]))
    merged = common_axes([permuted(each, order) for each in tensors])
    if not merged[0].shape:
        merged = [Strided(each.buffer, each.dtype, View((1,), (0,), each.view.offset)) for each in merged]
    turned = _turned_axis(merged)
    if turned is not None:
        return _turned(merged, turned)
    width = merged[0].shape[-1]
    narrowest = min(itemsize(each.dtype) for each in tensors)
    if len(merged[0].shape) > 1 and width < VECTOR // narrowest:
        return _composite(merged, elements)
    return _straight(merged, elements, VECTOR // narrowest)


def _straight(tensors: list[Strided], elements: int, vector: int) -> Tiling:
    """Columns are the last axis, or whole pieces of it that a power of 2 counts."""
    width = tensors[0].shape[-1]
    piece = min(width & -width, elements)
    if piece < width and piece >= vector:
        tensors = [with_axis_split(each, len(each.shape) - 1, piece) for each in tensors]
        width = piece
    return _blocks(tensors, 1, min(triton.next_power_of_2(width), elements), elements)


def _composite(tensors: list[Strided], elements: int) -> Tiling:
    """Columns are as many of the last axes as make a block wide enough."""
    shape = tensors[0].shape
    axes = 1
    while axes < len(shape) and math.prod(shape[-axes:]) < elements // 4:
        axes += 1
    return _blocks(tensors, axes, min(triton.next_power_of_2(math.prod(shape[-axes:])), elements), elements)


def _blocks(tensors: Sequence[Strided], column_axes: int, columns: int, elements: int) -> Tiling:
    shape = tensors[0].shape
    space = Space(shape, 0, len(shape) - column_axes)
    rows = min(max(elements // columns, 1), triton.next_power_of_2(space.count("row")))
    return Tiling(space, rows, columns, tuple(tensors))


def indexed_tiling(shape: tuple[int, ...], elements: int) -> Tiling:
    """For what has to know the indices along the axes of `shape`: none are merged, none change their order."""
    shape = shape or (1,)
    axes = 1
    while axes < len(shape) and math.prod(shape[-axes:]) < VECTOR:
        axes += 1
    width = math.prod(shape[-axes:])
    piece = min(width & -width, elements)
    columns = piece if piece >= 64 else min(triton.next_power_of_2(width), elements)
    space = Space(shape, 0, len(shape) - axes)
    rows = min(max(elements // columns, 1), triton.next_power_of_2(space.count("row")))
    return Tiling(space, rows, columns, ())


def _turned_axis(tensors: Sequence[Strided]) -> int | None:
    """An axis that some tensor walks with stride 1 while it does not walk the last one so; None without any."""
    shape = tensors[0].shape
    for each in tensors:
        if abs(each.strides[-1]) <= 1 or shape[-1] < 8:
            continue
        for axis in range(len(shape) - 1):
            if abs(each.strides[axis]) == 1 and shape[axis] >= 8:
                return axis
    return None


def _turned(tensors: Sequence[Strided], axis: int) -> Tiling:
    shape = tensors[0].shape
    others = [each for each in range(len(shape) - 1) if each != axis]
    order = [*others, axis, len(shape) - 1]
    ordered = tuple(permuted(each, order) for each in tensors)
    space = Space(ordered[0].shape, len(others), 1)
    rows = min(TURNED, triton.next_power_of_2(shape[axis]))
    columns = min(TURNED, triton.next_power_of_2(shape[-1]))
    return Tiling(space, rows, columns, ordered)
