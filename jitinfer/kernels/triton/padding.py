"""Padding and nearest resizing: each element of the result from one that its indices name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.graph.view import View
from jitinfer.kernels.family import Candidate, Config, Family
from jitinfer.kernels.operands import Strided
from jitinfer.kernels.triton.generated import launching
from jitinfer.kernels.triton.generated.block import Kernel, Term
from jitinfer.kernels.triton.generated.expressions import computed, number
from jitinfer.kernels.triton.generated.tiles import indexed_tiling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target
    from jitinfer.kernels.triton.generated.access import Space
    from jitinfer.kernels.triton.generated.block import Block


def role_of(space: Space, axis: int) -> str:
    return next(role for role in ("batch", "row", "column") if axis in space.axes(role))


class PadAndResize(Family):
    """All modes; any strides."""

    name = "pad_and_resize"
    ops = ("pad", "resize_nearest")

    def supports(self, node: Node, target: Target) -> bool:
        x = node.inputs[0]
        assert x is not None
        real = launching.types_known(node, target) and launching.narrow(node) and not x.dtype.startswith("complex")
        constant = node.op.name == "pad" and node.attributes["mode"] == "constant"
        return real and launching.results_of(node) is not None and (constant or x.type.size > 0)

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        return launching.block_configs(target, node.outputs[0].type.size)

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        written = launching.results_of(node)
        assert written is not None
        (x,), y = launching.operands_of(node), written[0]
        plan = indexed_tiling(y.shape, config["elements"])
        kernel = Kernel(programmatic=bool(config["programmatic"]))
        block = plan.begin(kernel)
        _Reader(node, block, x).copy(y)
        return Candidate((launching.launch(kernel, plan.programs, config["warps"]),))


class _Reader:
    """Reads the operand along some axes at indices computed from the result's, along the others as they are."""

    def __init__(self, node: Node, block: Block, x: Strided) -> None:
        self.node = node
        self.block = block
        self.x = x
        self.inside: list[str] = []
        self.roles: set[str] = set()

    def copy(self, y: Strided) -> None:
        strides = list(self.x.strides)
        extra = []
        for axis, (old, new) in enumerate(zip(self.x.shape, y.shape, strict=True)):
            if old == new:
                continue
            index = self.block.name(self.block.space.index(axis), "index")
            index = self.block.name(
                self._resized(index, old, new) if self._resizing else self._padded(axis, index), "at"
            )
            extra.append(f"{index} * {strides[axis]}")
            self.roles.add(role_of(self.block.space, axis))
            strides[axis] = 0
        x = Strided(self.x.buffer, self.x.dtype, View(y.shape or (1,), tuple(strides) or (0,), self.x.view.offset))
        where = " & ".join(self.inside)
        value = self.block.load(x, " + ".join(extra), self.roles, where)
        if where:
            fill = number(self.node.attributes["value"], computed(x.dtype))
            value = Term(self.block.name(f"tl.where({where}, {value.text}, {fill})", "padded"), x.dtype)
        y = Strided(y.buffer, y.dtype, View(y.shape or (1,), y.strides or (0,), y.view.offset))
        self.block.store(y, value)

    @property
    def _resizing(self) -> bool:
        return self.node.op.name == "resize_nearest"

    @staticmethod
    def _resized(index: str, old: int, new: int) -> str:
        return f"({index} * {old} // {new})"

    def _padded(self, axis: int, index: str) -> str:
        low, size, mode = self.node.attributes["low"][axis], self.x.shape[axis], self.node.attributes["mode"]
        place = f"({index} - {low})"
        if mode == "constant":
            self.inside.append(f"({index} >= {low}) & ({index} < {low + size})")
            return place
        if mode == "edge" or size == 1:
            return f"tl.minimum(tl.maximum({place}, 0), {size - 1})"
        period = size if mode == "wrap" else 2 * (size - 1)
        turns = -(-low // period) * period  # so that what is divided is not negative
        rest = f"(({place} + {turns}) % {period})"
        if mode == "wrap":
            return rest
        return f"tl.minimum({rest}, {period} - {rest})"
