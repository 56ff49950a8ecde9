"""Running sums along one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton

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


def with_axis_last(node: Node) -> tuple[Strided, list[Strided]] | None:
    """The operand and the results."""
    written = launching.results_of(node)
    if written is None:
        return None
    x = launching.operand_at(node, 0)
    axes = list(range(len(x.shape)))
    axes.append(axes.pop(node.attributes["axis"] % len(axes)))
    return permuted(x, axes), [permuted(each, axes) for each in written]


def supported(node: Node, target: Target) -> bool:
    x = node.inputs[0]
    assert x is not None
    real = launching.types_known(node, target) and launching.narrow(node) and not x.dtype.startswith("complex")
    return real and with_axis_last(node) is not None


class RunningSums(Family):
    """Rows of any length; the sums so far are carried from block to block."""

    name = "running_sums"
    ops = ("cumsum",)

    def supports(self, node: Node, target: Target) -> bool:
        return supported(node, target)

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
