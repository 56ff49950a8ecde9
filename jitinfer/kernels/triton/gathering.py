"""Gathers: elements of a tensor at places that another tensor names; rows are read by whole vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.graph.view import View
from jitinfer.kernels.family import Candidate, Config, Family
from jitinfer.kernels.operands import Strided
from jitinfer.kernels.triton.generated import launching
from jitinfer.kernels.triton.generated.access import LIMIT
from jitinfer.kernels.triton.generated.block import Kernel
from jitinfer.kernels.triton.generated.tiles import tiling
from jitinfer.kernels.triton.movement import as_bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target


@dataclass(frozen=True)
class Gathered:
    """source and result: of the result's shape, the source without the axes that are looked up; indices: tensors of
    that shape, each with the size and the stride of the axis of the source along which it counts."""

    source: Strided
    result: Strided
    indices: tuple[tuple[Strided, int, int], ...]


def gathered(node: Node) -> Gathered | None:
    """None where the result's store is not one strided view."""
    written = launching.results_of(node)
    if written is None:
        return None
    x, indices = launching.operands_of(node)
    return _KINDS[node.op.name](node, x, indices, written[0])


def _gather(node: Node, x: Strided, indices: Strided, y: Strided) -> Gathered:
    axis = node.attributes["axis"] % len(x.shape)
    rank = len(indices.shape)
    before, behind = x.strides[:axis], x.strides[axis + 1 :]
    source = Strided(x.buffer, x.dtype, View(y.shape, (*before, *[0] * rank, *behind), x.view.offset))
    strides = (*[0] * axis, *indices.strides, *[0] * len(behind))
    places = Strided(indices.buffer, indices.dtype, View(y.shape, strides, indices.view.offset))
    return Gathered(source, y, ((places, x.shape[axis], x.strides[axis]),))


def _gather_nd(node: Node, x: Strided, indices: Strided, y: Strided) -> Gathered:
    count = indices.shape[-1]
    lead = indices.strides[:-1]
    source = Strided(x.buffer, x.dtype, View(y.shape, (*[0] * len(lead), *x.strides[count:]), x.view.offset))
    strides = (*lead, *[0] * (len(x.shape) - count))
    found = []
    for axis in range(count):
        offset = indices.view.offset + axis * indices.strides[-1]
        places = Strided(indices.buffer, indices.dtype, View(y.shape, strides, offset))
        found.append((places, x.shape[axis], x.strides[axis]))
    return Gathered(source, y, tuple(found))


def _take_along_axis(node: Node, x: Strided, indices: Strided, y: Strided) -> Gathered:
    axis = node.attributes["axis"] % len(x.shape)
    shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    source = Strided(x.buffer, x.dtype, View(shape, x.strides, x.view.offset)).broadcast_to(y.shape)
    return Gathered(source, y, ((indices.broadcast_to(y.shape), x.shape[axis], x.strides[axis]),))


_KINDS = {"gather": _gather, "gather_nd": _gather_nd, "take_along_axis": _take_along_axis}


class Gathers(Family):
    """Any strides; indices count from the end where they are negative. What lies outside is the nearest element: the
    reference has no result there."""

    name = "gathers"
    ops = tuple(sorted(_KINDS))

    def supports(self, node: Node, target: Target) -> bool:
        x = node.inputs[0]
        assert x is not None
        found = gathered(node)
        return found is not None and x.dtype != "complex128" and all(size > 0 for _, size, _ in found.indices)

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        return launching.block_configs(target, node.outputs[0].type.size)

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        found = gathered(node)
        value = node.inputs[0]
        assert found is not None
        assert value is not None
        wide = value.type.size >= LIMIT
        tensors = [*(each for each, _, _ in found.indices), as_bits(found.source), as_bits(found.result)]
        plan = tiling(tensors, 1, config["elements"])
        kernel = Kernel(programmatic=bool(config["programmatic"]))
        block = plan.begin(kernel)
        extra, roles = [], set()
        for tensor, (_, size, stride) in zip(plan.tensors, found.indices, strict=False):
            index = block.load(tensor).text
            kernel.line(f"{index} = tl.where({index} < 0, {index} + {size}, {index}).to(tl.int64)")
            index = f"tl.minimum(tl.maximum({index}, 0), {size - 1})"
            kernel_index = block.name(index if wide else f"{index}.to(tl.int32)", "index")
            extra.append(f"{kernel_index} * {stride}")
            roles |= plan.space.roles(tensor.strides)
        source, goal = plan.tensors[-2:]
        block.store(goal, block.load(source, " + ".join(extra), roles))
        return Candidate((launching.launch(kernel, plan.programs, config["warps"]),))
