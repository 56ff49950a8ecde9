"""Along one axis: running sums, and orders by counting how many elements stand before each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton

from jitinfer.graph.types import FLOATING
from jitinfer.graph.view import View
from jitinfer.kernels.family import Candidate, Config, Family
from jitinfer.kernels.operands import Strided
from jitinfer.kernels.triton.generated import launching
from jitinfer.kernels.triton.generated.access import Space, permuted
from jitinfer.kernels.triton.generated.block import Kernel, Term
from jitinfer.kernels.triton.generated.expressions import TYPES, computed, converted
from jitinfer.kernels.triton.generated.reductions import Loop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target

MOST_COMPARED = 65536
"""Elements of a row that are put in order by comparing each with each."""


def with_axis_last(node: Node) -> tuple[Strided, list[Strided]] | None:
    """The operand and the results."""
    written = launching.results_of(node)
    if written is None:
        return None
    x = launching.operand_at(node, 0)
    axes = list(range(len(x.shape)))
    axes.append(axes.pop(node.attributes["axis"] % len(axes)))
    return permuted(x, axes), [permuted(each, axes) for each in written]


def _supported(node: Node, target: Target) -> bool:
    x = node.inputs[0]
    assert x is not None
    real = launching.types_known(node, target) and launching.narrow(node) and not x.dtype.startswith("complex")
    return real and with_axis_last(node) is not None


class RunningSums(Family):
    """Rows of any length; the sums so far are carried from block to block."""

    name = "running_sums"
    ops = ("cumsum",)

    def supports(self, node: Node, target: Target) -> bool:
        return _supported(node, target)

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        width = node.output.shape[node.attributes["axis"]]
        columns = min(triton.next_power_of_2(max(width, 1)), 2048)
        rows = max(min(1024 // columns, triton.next_power_of_2(node.output.type.size // max(width, 1))), 1)
        return launching.with_programmatic(target, [{"rows": rows, "columns": columns, "warps": 4}])

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        found = with_axis_last(node)
        assert found is not None
        x, y = found[0], found[1][0]
        if node.attributes["reverse"]:
            x, y = _backwards(x), _backwards(y)
        held = {"bool": "int32", "int8": "int32", "uint8": "int32", "int16": "int32"}.get(x.dtype, computed(x.dtype))
        kernel = Kernel(programmatic=bool(config["programmatic"]))
        loop = Loop(kernel, Space(x.shape, 0, len(x.shape) - 1), config["rows"], config["columns"])
        block = loop.block
        kernel.line(f"carried = tl.zeros([{loop.rows}, 1], {TYPES[held]})")
        loop.enter()
        term = block.load(x)
        whole = f"tl.broadcast_to({converted(term.text, term.computed, held)}, {block.shape})"
        mask = block.mask({"row", "column"})
        kernel.line(f"value = tl.where({mask}, {whole}, 0)" if mask else f"value = {whole}")
        kernel.line("sums = tl.cumsum(value, axis=1) + carried")
        kernel.line(f"carried += tl.sum(value, axis=1, keep_dims=True).to({TYPES[held]})")
        text = "(sums - value)" if node.attributes["exclusive"] else "sums"
        block.store(y, Term(converted(text, held, y.dtype), y.dtype))
        loop.leave()
        return Candidate((launching.launch(kernel, loop.programs, config["warps"]),))


def _backwards(tensor: Strided) -> Strided:
    lead = len(tensor.shape) - 1
    width = tensor.shape[-1]
    view = tensor.view.slice((*[0] * lead, width - 1), (*tensor.shape[:-1], -1), (*[1] * lead, -1))
    return Strided(tensor.buffer, tensor.dtype, view)


class Orders(Family):
    """Rows of up to 65536 elements: an element's place is the number of those before it. Equal ones stay in their
    order; NaN is above all numbers."""

    name = "orders"
    ops = ("argsort", "top_k")

    def supports(self, node: Node, target: Target) -> bool:
        found = _supported(node, target)
        kind = node.input_type(0)
        assert kind is not None
        return found and kind.shape[node.attributes["axis"]] <= MOST_COMPARED

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        kind = node.input_type(0)
        assert kind is not None
        width = kind.shape[node.attributes["axis"]]
        count = kind.size // max(width, 1)
        columns = min(triton.next_power_of_2(max(width, 1)), 64)
        rows = max(min(4096 // (columns * columns), triton.next_power_of_2(max(count, 1))), 1)
        return launching.with_programmatic(target, [{"rows": rows, "columns": columns, "warps": 4}])

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        found = with_axis_last(node)
        assert found is not None
        x, written = found
        rows, columns = config["rows"], config["columns"]
        space = Space(x.shape, 0, len(x.shape) - 1)
        width, count = space.count("column"), space.count("row")
        kernel = Kernel(programmatic=bool(config["programmatic"]))
        loop = Loop(kernel, space, rows, columns, -(-width // columns))
        line, block = kernel.line, loop.block
        block.column_end = str(width) if width % columns else ""
        cube = f"[{rows}, {columns}, {columns}]"
        mine = f"part * {columns} + tl.arange(0, {columns})" if loop.parts > 1 else f"tl.arange(0, {columns})"
        line(f"column = ({mine})[None, :]")
        line("own = column")
        value = _plain(block.load(x), block.shape)
        line(f"value = {value}")
        line(f"place = tl.zeros({block.shape}, tl.int32)")
        line(f"for step in range({-(-width // columns)}):")
        kernel.indentation += 1
        line(f"column = (step * {columns} + tl.arange(0, {columns}))[None, :]")
        line(f"other = tl.reshape({_plain(block.load(x), block.shape)}, [{rows}, 1, {columns}])")
        line(f"mine = tl.reshape(value, [{rows}, {columns}, 1])")
        descending = node.attributes.get("descending", node.attributes.get("largest", False))
        line(f"before = {_before('other', 'mine', descending, computed(x.dtype))}")
        line(f"earlier = tl.reshape(column, [1, 1, {columns}]) < tl.reshape(own, [1, {columns}, 1])")
        line(f"before = tl.broadcast_to(before | ({_same('other', 'mine', computed(x.dtype))} & earlier), {cube})")
        if block.column_end:
            line(f"before = before & (tl.reshape(column, [1, 1, {columns}]) < {width})")
        line("place += tl.sum(before.to(tl.int32), axis=2)")
        kernel.indentation -= 1
        line("column = own")
        mask = block.mask({"row", "column"})
        kept = written[0].shape[-1]
        inside = " & ".join(part for part in (mask, f"(place < {kept})" if kept < width else "") if part)
        terms = [Term("own.to(tl.int64)", "int64")]
        if node.op.name == "top_k":
            # Read again in its own type: bools and small integers were compared in another.
            terms.insert(0, block.load(x))
        for goal, term in zip(written, terms, strict=True):
            self._scatter(loop, goal, term, inside, count)
        return Candidate((launching.launch(kernel, loop.programs, config["warps"]),))

    @staticmethod
    def _scatter(loop: Loop, goal: Strided, term: Term, inside: str, count: int) -> None:
        """Writes the term's elements to their places in the row."""
        strides = (*goal.strides[:-1], 0)
        shape = (*goal.shape[:-1], 1)
        start = Strided(goal.buffer, goal.dtype, View(shape, strides, goal.view.offset))
        pointer, _ = loop.block.place(start, f"place * {goal.strides[-1]}", {"row", "column"})
        held = {"bool": "uint8"}.get(goal.dtype, goal.dtype)
        text = f"tl.broadcast_to({term.text}.to({TYPES[held]}), {loop.block.shape})"
        loop.kernel.line(f"tl.store({pointer}, {text}{', ' + inside if inside else ''})")


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
