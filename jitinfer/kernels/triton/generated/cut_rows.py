"""Norms and softmax over long rows: statistics of parts of them in one launch, the results in a second one.

A first launch gives, for each part of a row, its mean and the sum of the squares of what is left of it (Welford, 1962),
or its maximum and the sum of the weights below that. The second merges those (Chan, Golub and LeVeque, 1983; Milakov
and Gimelshein, 2018) and goes over the elements once more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import triton

from jitinfer.graph.types import itemsize
from jitinfer.graph.view import View
from jitinfer.kernels.family import WORKSPACE, Candidate, Config, Family
from jitinfer.kernels.operands import Strided
from jitinfer.kernels.triton.generated import launching
from jitinfer.kernels.triton.generated.block import Kernel, Term
from jitinfer.kernels.triton.generated.body import NORMS, SOFTMAX, Body, writable
from jitinfer.kernels.triton.generated.expressions import TYPES, computed
from jitinfer.kernels.triton.generated.reductions import Loop, row_major
from jitinfer.kernels.triton.generated.rows import Rows, longest_held, rows_of
from jitinfer.kernels.triton.generated.tiles import Tiling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target

SHORT = 2048
"""Elements of a row below which there is nothing to gain."""
MOST_PARTS = 128


class CutRows(Family):
    """Rows that registers cannot hold, or too few to keep a device busy; any strides."""

    name = "cut_rows"
    ops = tuple(sorted(NORMS | SOFTMAX))

    def supports(self, node: Node, target: Target) -> bool:
        if not launching.types_known(node, target):
            return False
        rows = rows_of(node)
        if rows is None or rows.width < SHORT or not writable(rows.body):
            return False
        return rows.width > longest_held(rows) or rows.space.count("row") < 2 * target.sm_count

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        rows = rows_of(node)
        assert rows is not None
        choices = []
        for columns, warps in ((2048, 4), (4096, 8), (1024, 4)):
            wanted = 4 * target.sm_count // max(rows.space.count("row"), 1)
            most = max(rows.width // (2 * columns), 1)
            parts = 1 << (max(min(wanted, most, MOST_PARTS), 1).bit_length() - 1)
            choices.append({"columns": columns, "parts": parts, "warps": warps})
        return launching.with_programmatic(target, choices)

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        rows = rows_of(node)
        assert rows is not None
        (inner,) = rows.body.nodes
        writer = _Softmax(inner, rows, config) if inner.op.name in SOFTMAX else _Norm(inner, rows, config)
        return writer.candidate()


class _TwoLaunches(ABC):
    """What both kinds share: two numbers of each part in the workspace, one array of each behind the other."""

    def __init__(self, node: Node, rows: Rows, config: Config) -> None:
        self.node = node
        self.rows = rows
        self.config = config
        self.parts = config["parts"]
        self.programmatic = bool(config["programmatic"])
        self.held = computed(node.outputs[-1].dtype)
        self.count = rows.space.count("row")
        self.operands = rows.tensors[: len(rows.tensors) - rows.written]
        self.results = rows.tensors[len(rows.tensors) - rows.written :]
        self.chunk = 0

    def candidate(self) -> Candidate:
        first = Kernel(self.programmatic)
        loop = Loop(first, self.rows.space, 1, self.config["columns"], self.parts)
        self.chunk = loop.chunk
        self.statistics(loop)
        second = Kernel(self.programmatic)
        plan = Tiling(
            self.rows.space, 1, min(self.config["columns"], triton.next_power_of_2(self.rows.width)), self.rows.tensors
        )
        block = plan.begin(second)
        body = Body(block)
        second.line(f"part = tl.arange(0, {self.parts})[None, :]")
        outputs = self.merged(body)
        if self.programmatic:
            second.line("tl.extra.cuda.gdc_launch_dependents()")
        for result, term in zip(self.results, outputs, strict=True):
            block.store(result, term)
        warps = self.config["warps"]
        steps = (launching.launch(first, loop.programs, warps), launching.launch(second, plan.programs, warps))
        return Candidate(steps, 2 * self.count * self.parts * itemsize(self.held))

    @abstractmethod
    def statistics(self, loop: Loop) -> None:
        """The lines of the first launch."""

    @abstractmethod
    def merged(self, body: Body) -> list[Term]:
        """The lines of the second, up to the results."""

    def place(self, number: int) -> Strided:
        """The first or second number of the parts, over the space of the rows."""
        offset = number * self.count * self.parts
        return Strided(
            WORKSPACE, self.held, View(self.rows.space.shape, row_major(self.rows.space, self.parts), offset)
        )

    def keep(self, loop: Loop, number: int, text: str) -> None:
        loop.block.store(self.place(number), Term(text, self.held), extra="part" if self.parts > 1 else "")

    def kept(self, body: Body, number: int) -> str:
        return body.block.load(self.place(number), "part", {"row"}).text

    def loaded(self, body: Body, names: set[str]) -> dict[str, Term]:
        """Operands of these names, or all where there are none, read."""
        inputs = list(self.rows.body.inputs)
        terms: dict[str, Term] = {}
        for operand, value in zip(self.node.op.operands, self.node.inputs, strict=False):
            if value is not None and (not names or operand.name in names):
                terms[operand.name] = body.block.load(self.operands[inputs.index(value)])
        return terms


class _Norm(_TwoLaunches):
    def statistics(self, loop: Loop) -> None:
        kernel, shape, kind = loop.kernel, loop.block.shape, TYPES[self.held]
        centred = self.node.op.name != "rms_norm"
        kernel.line(f"mean = tl.full({shape}, 0.0, {kind})")
        kernel.line(f"squares = tl.full({shape}, 0.0, {kind})")
        kernel.line(f"count = tl.full({shape}, 0.0, {kind})")
        loop.enter()
        body = Body(loop.block)
        x = body.normalized(self.node, self.loaded(body, {"x", "residual", "gate"}))
        inside = loop.block.mask({"column"}) or "column >= 0"
        if centred:
            kernel.line(f"inside = tl.broadcast_to({inside}, {shape})")
            kernel.line(f"count += inside.to({kind})")
            kernel.line(f"left = tl.where(inside, {x.text} - mean, 0.0)")
            kernel.line("mean += left / tl.maximum(count, 1.0)")
            kernel.line(f"squares += tl.where(inside, left * ({x.text} - mean), 0.0)")
        else:
            kernel.line(f"squares += tl.where({inside}, {x.text} * {x.text}, 0.0)")
        loop.leave()
        if centred:
            kernel.line("number = tl.maximum(tl.sum(count, axis=1, keep_dims=True), 1.0)")
            kernel.line("middle = tl.sum(count * mean, axis=1, keep_dims=True) / number")
            kernel.line("squares += count * (mean - middle) * (mean - middle)")
            self.keep(loop, 0, "middle")
        self.keep(loop, 1, "tl.sum(squares, axis=1, keep_dims=True)")

    def merged(self, body: Body) -> list[Term]:
        line, width = body.block.kernel.line, self.rows.width
        squares = self.kept(body, 1)
        centred = self.node.op.name != "rms_norm"
        if centred:
            means = self.kept(body, 0)
            line(
                f"count = tl.minimum(tl.maximum({width} - part * {self.chunk}, 0), {self.chunk}).to({TYPES[self.held]})"
            )
            line(f"mean = tl.sum(count * {means}, axis=1, keep_dims=True) / {width}")
            line(f"apart = {means} - mean")
            squares = f"({squares} + count * apart * apart)"
        line(f"variance = tl.sum({squares}, axis=1, keep_dims=True) / {width}")
        named = self.loaded(body, set())
        x = body.normalized(self.node, named)
        left = Term(body.block.name(f"{x.text} - mean", "centred"), self.held) if centred else x
        return body.norm_of(self.node, x, left, "variance", named)


class _Softmax(_TwoLaunches):
    def statistics(self, loop: Loop) -> None:
        kernel, shape, kind = loop.kernel, loop.block.shape, TYPES[self.held]
        kernel.line(f'largest = tl.full({shape}, float("-inf"), {kind})')
        kernel.line(f"total = tl.full({shape}, 0.0, {kind})")
        loop.enter()
        (x,) = self.loaded(Body(loop.block), set()).values()
        inside = loop.block.mask({"column"})
        value = f'tl.where({inside}, {x.text}, float("-inf"))' if inside else x.text
        kernel.line(f"value = tl.broadcast_to({value}, {shape})")
        kernel.line("higher = tl.maximum(largest, value)")
        kernel.line("base = arithmetic.finite_base(higher)")
        kernel.line("total = total * libdevice.exp(largest - base) + libdevice.exp(value - base)")
        kernel.line("largest = higher")
        loop.leave()
        kernel.line("top = tl.max(largest, axis=1, keep_dims=True)")
        kernel.line("total = total * libdevice.exp(largest - arithmetic.finite_base(top))")
        self.keep(loop, 0, "top")
        self.keep(loop, 1, "tl.sum(total, axis=1, keep_dims=True)")

    def merged(self, body: Body) -> list[Term]:
        block = body.block
        tops, totals = self.kept(body, 0), self.kept(body, 1)
        block.kernel.line(f"top = tl.max({tops}, axis=1, keep_dims=True)")
        weights = f"{totals} * libdevice.exp({tops} - arithmetic.finite_base(top))"
        block.kernel.line(f"total = tl.sum({weights}, axis=1, keep_dims=True)")
        (x,) = self.loaded(body, set()).values()
        shifted = block.name(f"{x.text} - top", "shifted")
        if self.node.op.name == "softmax":
            text = f"libdevice.exp({shifted}) * (1.0 / total)"
        else:
            text = f"{shifted} - libdevice.log(total)"
        return [Term(block.name(text, self.node.op.name), x.dtype)]
