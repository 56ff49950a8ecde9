"""Copies: views that have to become memory of their own, and concatenations, all parts in one launch."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from jitinfer.graph.operations.movement import concat_places
from jitinfer.graph.types import itemsize
from jitinfer.graph.view import View
from jitinfer.kernels.family import Candidate, Config, Family, output_name
from jitinfer.kernels.operands import Strided
from jitinfer.kernels.triton.generated import launching
from jitinfer.kernels.triton.generated.block import Kernel
from jitinfer.kernels.triton.generated.tiles import tiling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target

_BITS = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}

Pair = tuple[Strided, Strided]
"""A tensor, and where its elements go, of one shape."""


def as_bits(tensor: Strided) -> Strided:
    """The same bytes as integers; of complex128, which no integer can hold, as pairs along one axis more."""
    size = itemsize(tensor.dtype)
    if size in _BITS:
        return Strided(tensor.buffer, _BITS[size], tensor.view)
    view = tensor.view
    strides = (*(2 * stride for stride in view.strides), 1)
    return Strided(tensor.buffer, "int64", View((*view.shape, 2), strides, 2 * view.offset))


def pairs_of(node: Node) -> list[Pair] | None:
    """What goes where; None where strides cannot say that."""
    if node.op.name == "concat":
        return _parts(node)
    written = launching.results_of(node)
    if written is None:
        return None
    y, name = written[0], node.op.name
    x = launching.operand_at(node, 0)
    if name == "reshape":
        return _reshaped(x, y)
    if name == "broadcast_to":
        return [(x.broadcast_to(y.shape), y)]
    view = x.view
    attributes = node.attributes
    if name == "transpose":
        view = view.transpose(attributes["permutation"])
    else:
        view = view.slice(attributes["starts"], attributes["stops"], attributes["steps"])
    return [(Strided(x.buffer, x.dtype, view), y)]


def _reshaped(x: Strided, y: Strided) -> list[Pair] | None:
    """Under the shape of either, or one that both can be seen as."""
    moved = x.reshape(y.shape)
    if moved is not None:
        return [(moved, y)]
    moved = y.reshape(x.shape)
    if moved is not None:
        return [(x, moved)]
    shape = _refined(x.shape, y.shape)
    if shape is None:
        return None
    source, target = x.reshape(shape), y.reshape(shape)
    return None if source is None or target is None else [(source, target)]


def _refined(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape whose axes are parts of those of both; None where an axis of one lies across two of the other."""
    steps = sorted({math.prod(shape[axis:]) for shape in (first, second) for axis in range(len(shape) + 1)})
    if any(larger % smaller for smaller, larger in itertools.pairwise(steps)):
        return None
    return tuple(larger // smaller for smaller, larger in itertools.pairwise(steps))[::-1]


def _parts(node: Node) -> list[Pair] | None:
    """A result that no one view describes can do so part by part."""
    places = concat_places(node)
    if places is None:
        return None
    operands = [launching.operand_at(node, position) for position in range(len(node.inputs))]
    dtype = node.outputs[0].dtype
    pairs = [(x, Strided(output_name(0), dtype, place)) for x, place in zip(operands, places, strict=True)]
    return [(x, part) for x, part in pairs if x.view.size]


class Copies(Family):
    """Any strides; axes that change places innermost go through shared memory."""

    name = "copies"
    ops = ("reshape", "transpose", "slice", "broadcast_to", "concat")

    def supports(self, node: Node, target: Target) -> bool:
        return pairs_of(node) is not None

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        return launching.block_configs(target, node.outputs[0].type.size)

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        pairs = pairs_of(node)
        assert pairs is not None
        kernel = Kernel(programmatic=bool(config["programmatic"]))
        programs = write_copies(kernel, pairs, config["elements"])
        return Candidate((launching.launch(kernel, programs, config["warps"]),))


def write_copies(kernel: Kernel, pairs: Sequence[Pair], elements: int, first: int = 0) -> int:
    """The lines that copy, each pair by programs of its own from number `first` on; returns the number behind them.

    The lines of the last pair stand behind those of the others, which end with `return`: one for each program.
    """
    for position, (source, goal) in enumerate(pairs):
        plan = tiling([as_bits(source), as_bits(goal)], 1, elements)
        last = position == len(pairs) - 1
        if not last:
            kernel.line(f"if tl.program_id(0) < {first + plan.programs}:")
            kernel.indentation += 1
        block = plan.begin(kernel, f"(tl.program_id(0) - {first})" if first else "tl.program_id(0)")
        value = block.load(plan.tensors[0])
        block.store(plan.tensors[1], value)
        if not last:
            kernel.line("return")
            kernel.indentation -= 1
        first += plan.programs
    return first
