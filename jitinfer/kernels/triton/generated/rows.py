"""Kernels that hold whole rows in registers: norms, softmax, and groups of such reductions with pointwise ops.

A program loads some whole rows, computes all that the body says from what it holds, and writes each result once.
Statistics are those of the reference: first the mean, then the squares of what is left of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import triton

from jitinfer.graph.types import itemsize
from jitinfer.kernels.family import Candidate, Config, Family
from jitinfer.kernels.triton.generated import launching
from jitinfer.kernels.triton.generated.access import Space, permuted, with_axis_split
from jitinfer.kernels.triton.generated.block import Kernel
from jitinfer.kernels.triton.generated.body import NORMS, REDUCTIONS, SOFTMAX, Body, body_of, writable
from jitinfer.kernels.triton.generated.pointwise import space_of
from jitinfer.kernels.triton.generated.tiles import Tiling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Graph, Node
    from jitinfer.kernels.operands import Strided
    from jitinfer.kernels.target import Target

MAX_WIDTH = 16384
"""Elements of a row that 32 warps hold in registers, in float32."""


@dataclass(frozen=True)
class Rows:
    """A body, and its tensors as views of one space of rows and columns: operands, then `written` results."""

    body: Graph
    space: Space
    tensors: tuple[Strided, ...]
    written: int

    @property
    def width(self) -> int:
        return self.space.count("column")

    @property
    def along_rows(self) -> bool:
        """Whether neighbours in memory are in neighbouring rows, not columns."""
        first = self.tensors[0]
        return abs(first.strides[-1]) > 1 and any(abs(first.strides[axis]) == 1 for axis in self.space.axes("row"))

    def tiling(self, rows: int) -> Tiling:
        return Tiling(self.space, rows, triton.next_power_of_2(self.width), self.tensors)


def rows_of(node: Node) -> Rows | None:
    """The node as rows; None where its body is no such one, or views are in the way."""
    written = launching.results_of(node)
    if written is None:
        return None
    body = body_of(node)
    tensors = [*launching.operands_of(node), *written]
    name = node.op.name
    if name == "group_norm":
        return _group_norm(node, body, tensors)
    shape = space_of(body)
    if shape is None or not shape:
        return None
    tensors = launching.shaped(tensors, shape)
    axes = list(range(len(shape)))
    columns = 1
    if name in ("layer_norm", "rms_norm"):
        columns = node.attributes["axes"]
    elif name in SOFTMAX:
        axes.append(axes.pop(node.attributes["axis"] % len(shape)))
    ordered = tuple(permuted(each, axes) for each in tensors)
    space = Space(ordered[0].shape, 0, len(shape) - columns)
    return Rows(body, space, ordered, len(written))


def _group_norm(node: Node, body: Graph, tensors: Sequence[Strided]) -> Rows | None:
    """Rows are groups: of x as [N, groups, channels of a group, ...], columns in the order in which x lies."""
    groups = node.attributes["groups"]
    channels = tensors[0].shape[1] // groups
    if channels == 0:
        return None
    x, y = (with_axis_split(each, 1, channels) for each in (tensors[0], tensors[-1]))
    rest = (1,) * (len(x.shape) - 3)
    vectors = []
    for each in tensors[1:-1]:
        vector = each.reshape((groups, channels, *rest))
        assert vector is not None
        vectors.append(vector.broadcast_to(x.shape))
    order = [0, 1, *sorted(range(2, len(x.shape)), key=lambda axis: -abs(x.strides[axis]))]
    ordered = tuple(permuted(each, order) for each in (x, *vectors, y))
    return Rows(body, Space(ordered[0].shape, 0, 2), ordered, 1)


class HeldRows(Family):
    """Rows of up to 16384 elements, 8192 in float64; any strides."""

    name = "held_rows"
    ops = ("group", *sorted(NORMS | SOFTMAX))

    def supports(self, node: Node, target: Target) -> bool:
        if not launching.types_known(node, target):
            return False
        rows = rows_of(node)
        if rows is None or not writable(rows.body) or not 0 < rows.width <= longest_held(rows):
            return False
        return any(each.op.name in REDUCTIONS for each in rows.body.nodes) and _last_axis_only(node)

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        rows = rows_of(node)
        assert rows is not None
        return row_configs(rows, target)

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        rows = rows_of(node)
        assert rows is not None
        kernel = Kernel(programmatic=bool(config["programmatic"]))
        plan = rows.tiling(config["rows"])
        split = len(rows.tensors) - rows.written
        late = bool(config["late"])
        Body(plan.begin(kernel)).write(rows.body, rows.tensors[:split], rows.tensors[split:], late=late)
        return Candidate((launching.launch(kernel, plan.programs, config["warps"]),))


def longest_held(rows: Rows) -> int:
    """Elements of the longest row that registers hold."""
    wide = any(itemsize(value.dtype) == 8 for node in rows.body.nodes for value in node.outputs)
    return MAX_WIDTH // 2 if wide else MAX_WIDTH


def _last_axis_only(node: Node) -> bool:
    """Whether the reductions inside of a group go along the last axis, and keep it."""
    if node.op.name != "group":
        return True
    reducing = (each for each in node.attributes["body"].nodes if each.op.name in REDUCTIONS)
    return all(_along_last(each) for each in reducing)


def _along_last(node: Node) -> bool:
    x = node.input_type(0)
    assert x is not None
    attributes = node.attributes
    if node.op.name in SOFTMAX:
        return attributes["axis"] in (-1, x.rank - 1)
    if node.op.name in ("layer_norm", "rms_norm"):
        return bool(attributes["axes"] == 1)
    if node.op.name in NORMS:
        return True
    return bool(attributes["keepdims"]) and [axis % x.rank for axis in attributes["axes"]] == [x.rank - 1]


def row_configs(rows: Rows, target: Target) -> list[Config]:
    """About 16 elements a thread, and a program for every multiprocessor, are best; rows that are neighbours in
    memory want many of them in a program."""
    block = triton.next_power_of_2(rows.width)
    count = rows.space.count("row")
    ranked = []
    for held_rows in (1, 2, 4, 8, 16, 32, 64):
        for warps in (1, 2, 4, 8, 16, 32):
            held = block * held_rows / (32 * warps)
            too_many = held_rows > 1 and (held_rows > count or block * held_rows > 8192)
            if too_many or held > 32 or (held < 1 and warps > 1):
                continue
            idle = held_rows > 1 and -(-count // held_rows) < 2 * target.sm_count
            scattered = rows.along_rows and held_rows < 16
            # Of 32 warps, a multiprocessor holds one program, and waits while that reduces.
            rank = (scattered, idle, warps > 16, abs(math.log2(held) - 4), abs(warps - 4), held_rows)
            ranked.append((rank, held_rows, warps))
    if not ranked:
        ranked = [((False, False, True, 0.0, 0, 1), 1, 32)]
    choices = []
    for _, held_rows, warps in sorted(ranked)[:4]:
        # Many elements a thread leave no registers for what is read before it is needed.
        crowded = block * held_rows // (32 * warps) > 16
        choices += [{"rows": held_rows, "warps": warps, "late": late} for late in (int(crowded), int(not crowded))]
    return launching.with_programmatic(target, choices[:6])
