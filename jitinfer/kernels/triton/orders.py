"""Orders along one axis, by counting for each element how many stand before it.

That compares each element with each, which is quick for rows of some thousands. The first few of longer rows are found
in two launches: those of each part of the row, and of these again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import triton

from jitinfer.graph.types import FLOATING, itemsize
from jitinfer.graph.view import View
from jitinfer.kernels.family import WORKSPACE, Candidate, Config, Family, KernelLaunch
from jitinfer.kernels.operands import Strided
from jitinfer.kernels.triton.generated import launching
from jitinfer.kernels.triton.generated.access import Space
from jitinfer.kernels.triton.generated.block import STORED, Block, Kernel, Term
from jitinfer.kernels.triton.generated.expressions import TYPES, computed
from jitinfer.kernels.triton.scans import supported, with_axis_last
from jitinfer.runtime.plan import aligned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target

MOST_COMPARED = 65536
"""Elements of a row that are put in order by comparing each with each."""
PART = 1024
MOST_KEPT = 256
"""Elements that are kept of each part of a row, at most."""


class Orders(Family):
    """Rows of up to 65536 elements. Equal ones stay in their order; NaN is above all numbers."""

    name = "orders"
    ops = ("argsort", "top_k")

    def supports(self, node: Node, target: Target) -> bool:
        kind = node.input_type(0)
        assert kind is not None
        return supported(node, target) and kind.shape[node.attributes["axis"]] <= MOST_COMPARED

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        kind = node.input_type(0)
        assert kind is not None
        width = kind.shape[node.attributes["axis"]]
        count = kind.size // max(width, 1)
        columns = min(triton.next_power_of_2(max(width, 1)), 64)
        rows = max(min(4096 // (columns * columns), triton.next_power_of_2(max(count, 1))), 1)
        parts = [-(-width // PART), 1] if node.attributes.get("k", width) <= MOST_KEPT and width > 4 * PART else [1]
        return launching.with_programmatic(
            target, [{"rows": rows, "columns": columns, "parts": each, "warps": 4} for each in parts]
        )

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        found = with_axis_last(node)
        assert found is not None
        x, written = found
        values = written[0] if node.op.name == "top_k" else None
        descending = node.attributes.get("descending", node.attributes.get("largest", False))
        ranking = _Ranking(config, bool(descending))
        if config["parts"] == 1:
            return Candidate((ranking.launch(_Job(x, x.shape[-1], None, values, written[-1])),))
        assert values is not None
        return _in_parts(ranking, x, config["parts"], values, written[-1])


def _in_parts(ranking: _Ranking, x: Strided, parts: int, values: Strided, indices: Strided) -> Candidate:
    """Parts are of nearly one size, so that none has fewer elements than are kept of each."""
    width, kept, lead = x.shape[-1], values.shape[-1], x.shape[:-1]
    part = -(-width // parts)
    view = View((*lead, parts, part), (*x.strides[:-1], part * x.strides[-1], x.strides[-1]), x.view.offset)
    row_shape = (*lead, parts, kept)
    value_bytes = aligned(math.prod(row_shape) * itemsize(x.dtype))
    first_values = Strided(WORKSPACE, x.dtype, View.of(row_shape))
    strides = View.of(row_shape).strides
    first_indices = Strided(WORKSPACE, "int32", View(row_shape, strides, value_bytes // 4))
    joined = (*lead, parts * kept)
    again = first_values.reshape(joined)
    places = first_indices.reshape(joined)
    assert again is not None
    assert places is not None
    steps = (
        ranking.launch(_Job(Strided(x.buffer, x.dtype, view), width, None, first_values, first_indices, parts)),
        ranking.launch(_Job(again, joined[-1], places, values, indices)),
    )
    return Candidate(steps, value_bytes + 4 * math.prod(row_shape))


@dataclass(frozen=True)
class _Job:
    """Rows of x in order: values, where wanted, and where they stood go to the first places of the results' rows.

    width: elements of a row, or of `parts` rows that follow each other; places: where x itself was taken from.
    """

    x: Strided
    width: int
    places: Strided | None
    values: Strided | None
    indices: Strided
    parts: int = 1


class _Ranking:
    def __init__(self, config: Config, descending: bool) -> None:
        self.config = config
        self.descending = descending

    def launch(self, job: _Job) -> KernelLaunch:
        rows, columns = self.config["rows"], self.config["columns"]
        space = Space(job.x.shape, 0, len(job.x.shape) - 1)
        width, count = space.count("column"), space.count("row")
        blocks = -(-width // columns)
        kernel = Kernel(bool(self.config["programmatic"]))
        line = kernel.line
        line("program = tl.program_id(0)")
        line(f"row = (program // {blocks} * {rows} + tl.arange(0, {rows}))[:, None]")
        end = str(width) if width % columns else ""
        if job.parts > 1:
            line(f"end = tl.minimum({width}, {job.width} - row % {job.parts} * {width})")
            end = "end"
        block = Block(kernel, space, rows, columns, str(count) if count % rows else "", end)
        line(f"column = (program % {blocks} * {columns} + tl.arange(0, {columns}))[None, :]")
        self._count(block, job.x, blocks)
        mask = block.mask({"row", "column"})
        kept = job.indices.shape[-1]
        inside = " & ".join(part for part in (mask, f"(place < {kept})" if kept < width else "") if part)
        if job.values is not None:
            # Read again in its own type: bools were compared in another.
            _scatter(block, job.values, block.load(job.x), inside)
        where = "own" if job.parts == 1 else f"(own + row % {job.parts} * {width})"
        term = Term(where, "int32") if job.places is None else block.load(job.places)
        _scatter(block, job.indices, term, inside)
        return launching.launch(kernel, -(-count // rows) * blocks, self.config["warps"])

    def _count(self, block: Block, x: Strided, blocks: int) -> None:
        """place: the number of elements of the row that stand before each of the block's own."""
        line, rows, columns = block.kernel.line, block.rows, block.columns
        held = computed(x.dtype)
        line("own = column")
        line(f"mine = tl.reshape({_plain(block.load(x), block.shape)}, [{rows}, {columns}, 1])")
        line(f"place = tl.zeros({block.shape}, tl.int32)")
        line(f"for step in range({blocks}):")
        block.kernel.indentation += 1
        line(f"column = (step * {columns} + tl.arange(0, {columns}))[None, :]")
        line(f"other = tl.reshape({_plain(block.load(x), block.shape)}, [{rows}, 1, {columns}])")
        line(f"before = {_before('other', 'mine', self.descending, held)}")
        line(f"earlier = tl.reshape(column, [1, 1, {columns}]) < tl.reshape(own, [1, {columns}, 1])")
        cube = f"[{rows}, {columns}, {columns}]"
        line(f"before = tl.broadcast_to(before | ({_same('other', 'mine', held)} & earlier), {cube})")
        if block.column_end:
            end = f"tl.reshape(end, [{rows}, 1, 1])" if block.column_end == "end" else block.column_end
            line(f"before = before & (tl.reshape(column, [1, 1, {columns}]) < {end})")
        line("place += tl.sum(before.to(tl.int32), axis=2)")
        block.kernel.indentation -= 1
        line("column = own")


def _scatter(block: Block, goal: Strided, term: Term, inside: str) -> None:
    """Writes the term's elements to their places in the row."""
    start = Strided(goal.buffer, goal.dtype, View((*goal.shape[:-1], 1), (*goal.strides[:-1], 0), goal.view.offset))
    pointer, _ = block.place(start, f"place * {goal.strides[-1]}", {"row", "column"})
    held = STORED.get(goal.dtype, goal.dtype)
    text = f"tl.broadcast_to({term.text}.to({TYPES[held]}), {block.shape})"
    block.kernel.line(f"tl.store({pointer}, {text}{', ' + inside if inside else ''})")


def _plain(term: Term, shape: str) -> str:
    text = f"tl.broadcast_to({term.text}, {shape})"
    return f"{text}.to(tl.int32)" if term.computed == "bool" else text


def _before(x: str, y: str, descending: bool, held: str) -> str:
    """Whether x stands before y, equal ones aside."""
    if descending:
        x, y = y, x
    less = f"({x} < {y})"
    return f"({less} | (({y} != {y}) & ({x} == {x})))" if held in FLOATING else less


def _same(x: str, y: str, held: str) -> str:
    return f"(({x} == {y}) | (({x} != {x}) & ({y} != {y})))" if held in FLOATING else f"({x} == {y})"
