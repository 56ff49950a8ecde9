"""Kernels for reductions over any axes: each program goes over some rows block by block, and keeps a block of sums.

Where there are few rows, and long ones, the rows are cut into parts first: their sums go to the workspace, and a
second launch reduces those.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy
import triton

from jitinfer.graph.types import FLOATING, itemsize
from jitinfer.graph.view import View
from jitinfer.kernels.family import WORKSPACE, Candidate, Config, Family
from jitinfer.kernels.operands import Strided
from jitinfer.kernels.triton.generated import launching
from jitinfer.kernels.triton.generated.access import Space, permuted
from jitinfer.kernels.triton.generated.block import Block, Kernel, Term
from jitinfer.kernels.triton.generated.body import ROW_SUMS, folded, neutral
from jitinfer.kernels.triton.generated.expressions import TYPES, computed, converted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target

ARGUMENTS = ("argmax", "argmin")
LONG = 16384
"""Elements of a row from which on it may be worth to cut it."""


def space_of_reduction(node: Node) -> tuple[Space, Strided, Strided] | None:
    """Rows of what is kept, columns of what is reduced, and operand and result as views of them."""
    written = launching.results_of(node)
    if written is None:
        return None
    x = launching.operand_at(node, 0)
    rank = len(x.shape)
    axes = node.attributes["axes"] if "axes" in node.attributes else (node.attributes["axis"],)
    reduced = sorted(axis % rank for axis in axes)
    kept = [axis for axis in range(rank) if axis not in reduced]
    x = permuted(x, [*kept, *reduced])
    y = written[0].reshape(tuple(x.shape[: len(kept)]))
    if y is None:
        return None
    strides = (*y.strides, *[0] * len(reduced))
    y = Strided(y.buffer, y.dtype, View(x.shape, strides, y.view.offset))
    return Space(x.shape, 0, len(kept)), x, y


class Reductions(Family):
    """Any axes, any strides, rows of any length, which may be 0 where the op has a result then."""

    name = "reductions"
    ops = (*sorted(ROW_SUMS), *ARGUMENTS)

    def supports(self, node: Node, target: Target) -> bool:
        x = node.input_type(0)
        assert x is not None
        if not launching.types_known(node, target) or x.dtype.startswith("complex"):
            return False
        return space_of_reduction(node) is not None and (x.size > 0 or node.output.type.size == 0)

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        found = space_of_reduction(node)
        assert found is not None
        space, x, _ = found
        rows, width = space.count("row"), space.count("column")
        along_rows = abs(x.strides[-1]) > 1 and any(abs(x.strides[axis]) == 1 for axis in space.axes("row"))
        ranked = []
        # Nothing but larger blocks makes it fast where rows are few and cannot be cut.
        few = node.op.name in ARGUMENTS and rows < target.sm_count
        for elements in (2048, 4096, 8192) if few else (1024, 2048, 4096):
            for held_rows in (1, 4, 16, 32, 64):
                columns = min(elements // held_rows, triton.next_power_of_2(width))
                if held_rows > triton.next_power_of_2(rows):
                    continue
                cut = self._parts(node, rows, width, held_rows, columns, target)
                programs = -(-rows // held_rows) * cut
                idle = max(0.0, math.log2(2 * target.sm_count / programs))
                scattered = along_rows and held_rows < 16
                rank = (scattered, idle, abs(math.log2(held_rows * columns / (8192 if few else 2048))), held_rows)
                ranked.append((rank, held_rows, columns, cut))
        choices = [
            {"rows": held_rows, "columns": columns, "parts": cut, "warps": max(4, min(held_rows * columns // 512, 16))}
            for _, held_rows, columns, cut in sorted(ranked)[:4]
        ]
        return launching.with_programmatic(target, choices)

    @staticmethod
    def _parts(node: Node, rows: int, width: int, held_rows: int, columns: int, target: Target) -> int:
        """Into how many parts a row is cut: a power of 2."""
        if node.op.name in ARGUMENTS or width < LONG:
            return 1
        wanted = 4 * target.sm_count * held_rows // max(rows, 1)
        most = max(width // (2 * columns), 1)
        return 1 << (max(min(wanted, most, 1024), 1).bit_length() - 1)

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        found = space_of_reduction(node)
        assert found is not None
        space, x, y = found
        programmatic = bool(config["programmatic"])
        name, rows, columns, cut = node.op.name, config["rows"], config["columns"], config["parts"]
        width = space.count("column")
        if cut == 1:
            kernel = Kernel(programmatic)
            loop = Loop(kernel, space, rows, columns)
            if name in ARGUMENTS:
                loop.argument(name, x, y)
            else:
                loop.reduce(name, x, y, x.dtype, width)
            return Candidate((launching.launch(kernel, loop.programs, config["warps"]),))
        held = sum_dtype(name, x.dtype)
        count = space.count("row")
        strides = row_major(space, cut)
        partial = Strided(WORKSPACE, held, View(space.shape, strides, 0))
        first = Kernel(programmatic)
        loop = Loop(first, space, rows, columns, cut)
        loop.reduce("sum" if name == "mean" else name, x, partial, x.dtype, 1)
        row_shape = tuple(space.shape[axis] for axis in space.axes("row"))
        rest = Space((*row_shape, cut), 0, len(row_shape))
        parts = Strided(WORKSPACE, held, View(rest.shape, (*strides[: len(row_shape)], 1), 0))
        y = Strided(y.buffer, y.dtype, View(rest.shape, (*y.strides[: len(row_shape)], 0), y.view.offset))
        second = Kernel(programmatic)
        last = Loop(second, rest, 1, cut)
        last.reduce(name, parts, y, x.dtype, width)
        steps = (
            launching.launch(first, loop.programs, config["warps"]),
            launching.launch(second, last.programs, 4),
        )
        return Candidate(steps, count * cut * itemsize(held))


def sum_dtype(name: str, dtype: str) -> str:
    """In which a reduction of `dtype` is kept between two launches."""
    if name in ("any", "all") or dtype == "bool":
        return "bool"
    if name == "mean" and dtype not in FLOATING:
        return "float64"
    return computed(dtype)


def row_major(space: Space, inner: int) -> tuple[int, ...]:
    """Strides of [rows, inner] over the space; of its columns 0."""
    strides = [0] * len(space.shape)
    step = inner
    for axis in reversed(space.axes("row")):
        strides[axis] = step
        step *= space.shape[axis]
    return tuple(strides)


class Loop:
    """Writes a loop over the columns of some rows, or of one of `parts` parts of them."""

    def __init__(self, kernel: Kernel, space: Space, rows: int, columns: int, parts: int = 1) -> None:
        self.kernel = kernel
        self.space = space
        self.parts = parts
        self.rows, self.columns = rows, columns
        count, self.width = space.count("row"), space.count("column")
        self.chunk = -(-self.width // (parts * columns)) * columns
        even = self.width % (self.chunk * parts) == 0 and self.chunk % columns == 0
        end = str(self.width) if parts == 1 else "end"
        self.block = Block(kernel, space, rows, columns, str(count) if count % rows else "", "" if even else end)
        self.programs = -(-count // rows) * parts
        self._begin()

    def _begin(self) -> None:
        line = self.kernel.line
        line(f"program = tl.program_id(0){'.to(tl.int64)' if self.space.wide else ''}")
        if self.parts > 1:
            line(f"part = program % {self.parts}")
            line(f"begin = part * {self.chunk}")
            line(f"end = tl.minimum(begin + {self.chunk}, {self.width})")
        row = "program" if self.parts == 1 else f"program // {self.parts}"
        line(f"row = ({row} * {self.rows} + tl.arange(0, {self.rows}))[:, None]")

    def enter(self) -> None:
        """Into the loop over blocks, or nowhere where there is one block."""
        steps = f"tl.arange(0, {self.columns})[None, :]"
        if self.parts == 1 and self.width <= self.columns:
            self.kernel.line(f"column = {steps}")
            return
        self.kernel.line(f"for step in range({self.chunk // self.columns}):")
        self.kernel.indentation = 1
        begin = "begin + " if self.parts > 1 else ""
        self.kernel.line(f"column = {begin}step * {self.columns} + {steps}")

    def leave(self) -> None:
        self.kernel.indentation = 0

    def reduce(self, name: str, x: Strided, y: Strided, dtype: str, width: int) -> None:
        """y = the reduction of x, whose elements stand for ones of `dtype`; a mean is one of `width` elements."""
        asked = sum_dtype(name, dtype) == "bool"
        held, kind, identity = sum_dtype(name, dtype), name, ""
        if asked:  # as integers, since there are no sums of bools
            every = name in ("all", "min", "prod")
            held, kind, identity = "int32", "min" if every else "max", "1" if every else "0"
        identity = identity or neutral(kind, held)
        line = self.kernel.line
        line(f"total = tl.full({self.block.shape}, {identity}, {TYPES[held]})")
        self.enter()
        value = self._taken(x, held, asked)
        inside = self.block.mask({"row", "column"})
        if inside:
            value = f"tl.where({inside}, {value}, {identity})"
        line(f"total = {_combined(kind, 'total', value, held)}")
        self.leave()
        text = folded(kind, "total", held not in FLOATING)
        if kind == "mean":
            text = converted(f"({text} / {width})", held, y.dtype)
        elif asked:
            text = converted(f"({text} != 0)", "bool", y.dtype)
        else:
            text = f"({text}).to({TYPES[held]})"
        self._store(y, Term(text, y.dtype))

    def _taken(self, x: Strided, held: str, asked: bool) -> str:
        term = self.block.load(x)
        text = f"({term.text} != 0)" if asked else term.text
        whole = f"tl.broadcast_to({text}, {self.block.shape})"
        return whole if term.computed == held and not asked else f"{whole}.to({TYPES[held]})"

    def _store(self, y: Strided, term: Term) -> None:
        if self.kernel.programmatic:
            self.kernel.line("tl.extra.cuda.gdc_launch_dependents()")
        self.block.store(y, term, extra="part" if self.parts > 1 else "")

    def argument(self, name: str, x: Strided, y: Strided) -> None:
        """y = where the largest, or smallest, element of a row stands for the first time; NaN is before all others."""
        held = "int32" if x.dtype == "bool" else computed(x.dtype)
        line, shape = self.kernel.line, self.block.shape
        line(f"best = tl.full({shape}, {_worst(name, held)}, {TYPES[held]})")
        line(f"place = tl.full({shape}, {2**31 - 1}, tl.int32)")
        self.enter()
        line(f"value = {self._taken(x, held, False)}")
        sign = ">" if name == "argmax" else "<"
        better = f"(value {sign} best) | (place == {2**31 - 1})"
        if held in FLOATING:
            better += " | ((value != value) & (best == best))"
        mask = self.block.mask({"row", "column"})
        line(f"better = ({better}){' & ' + mask if mask else ''}")
        line("best = tl.where(better, value, best)")
        line("place = tl.where(better, column, place)")
        self.leave()
        extreme = folded("max" if name == "argmax" else "min", "best", held not in FLOATING)
        line(f"extreme = {extreme}")
        same = "(best == extreme) | ((best != best) & (extreme != extreme))" if held in FLOATING else "best == extreme"
        place = f"tl.min(tl.where({same}, place, {2**31 - 1}), axis=1, keep_dims=True)"
        self._store(y, Term(f"{place}.to({TYPES[y.dtype]})", y.dtype))


def _worst(name: str, held: str) -> str:
    if held in FLOATING:
        return neutral("max" if name == "argmax" else "min", held)
    bounds = numpy.iinfo(held)
    return str(bounds.min if name == "argmax" else bounds.max)


def _combined(name: str, x: str, y: str, held: str) -> str:
    if name in ("sum", "mean"):
        return f"{x} + {y}"
    if name == "prod":
        return f"{x} * {y}"
    kind = "maximum" if name == "max" else "minimum"
    return f"arithmetic.{kind}{'_float32' if held == 'float32' else ''}({x}, {y})"
