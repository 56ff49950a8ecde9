"""Pooling of images: each program goes over the windows of its elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.graph.types import FLOATING
from jitinfer.graph.view import View
from jitinfer.kernels.family import Candidate, Config, Family
from jitinfer.kernels.operands import Strided
from jitinfer.kernels.triton.generated import launching
from jitinfer.kernels.triton.generated.block import Kernel, Term
from jitinfer.kernels.triton.generated.body import neutral
from jitinfer.kernels.triton.generated.expressions import TYPES, computed, converted
from jitinfer.kernels.triton.generated.tiles import indexed_tiling
from jitinfer.kernels.triton.padding import role_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target
    from jitinfer.kernels.triton.generated.block import Block


class Pools(Family):
    """Both kinds, any windows."""

    name = "pools"
    ops = ("average_pool2d", "max_pool2d")

    def supports(self, node: Node, target: Target) -> bool:
        x = node.inputs[0]
        assert x is not None
        real = launching.types_known(node, target) and launching.narrow(node)
        real = real and not x.dtype.startswith("complex") and x.dtype != "bool"
        return real and launching.results_of(node) is not None

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        return launching.block_configs(target, node.outputs[0].type.size, (512, 1024, 2048))

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        written = launching.results_of(node)
        assert written is not None
        (x,), y = launching.operands_of(node), written[0]
        plan = indexed_tiling(y.shape, config["elements"])
        kernel = Kernel(programmatic=bool(config["programmatic"]))
        block = plan.begin(kernel)
        block.store(y, _pooled(node, block, x, y))
        return Candidate((launching.launch(kernel, plan.programs, config["warps"]),))


def _pooled(node: Node, block: Block, x: Strided, y: Strided) -> Term:
    largest = node.op.name == "max_pool2d"
    held = computed(x.dtype)
    if not largest and held not in FLOATING:
        held = "float64"
    line, attributes = block.kernel.line, node.attributes
    starts = []
    for axis, stride, (low, _) in zip((2, 3), attributes["strides"], attributes["padding"], strict=True):
        starts.append(block.name(f"({block.space.index(axis)}) * {stride} - {low}", "start"))
    identity = neutral("max" if largest else "sum", held)
    line(f"total = tl.full({block.shape}, {identity}, {TYPES[held]})")
    height, width = attributes["window"]
    line(f"for step in range({height * width}):")
    block.kernel.indentation += 1
    down = block.name(f"{starts[0]} + step // {width}", "down")
    across = block.name(f"{starts[1]} + step % {width}", "across")
    inside = f"({down} >= 0) & ({down} < {x.shape[2]}) & ({across} >= 0) & ({across} < {x.shape[3]})"
    source = Strided(x.buffer, x.dtype, View(y.shape, (*x.strides[:2], 0, 0), x.view.offset))
    roles = {role_of(block.space, 2), role_of(block.space, 3)}
    taken = block.load(source, f"{down} * {x.strides[2]} + {across} * {x.strides[3]}", roles, inside)
    value = f"tl.where({inside}, {converted(taken.text, taken.computed, held)}, {identity})"
    kind = "maximum_float32" if held == "float32" else "maximum"
    line(f"total = arithmetic.{kind}(total, {value})" if largest else f"total += {value}")
    block.kernel.indentation -= 1
    if largest:
        return Term("total", x.dtype)
    count = str(height * width)
    if not attributes["count_padding"]:
        spans = [
            f"(tl.minimum({start} + {size}, {dim}) - tl.maximum({start}, 0))"
            for start, size, dim in zip(starts, (height, width), x.shape[2:], strict=True)
        ]
        count = f"({spans[0]} * {spans[1]}).to({TYPES[held]})"
    return Term(converted(f"(total / {count})", held, y.dtype), y.dtype)
