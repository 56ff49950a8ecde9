"""Tensors made of attributes alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from jitinfer.graph.operations.complex_numbers import PARTS
from jitinfer.graph.types import numpy_dtype
from jitinfer.graph.view import View
from jitinfer.kernels.family import Candidate, Config, Family, output_name
from jitinfer.kernels.operands import Strided
from jitinfer.kernels.triton.generated import launching
from jitinfer.kernels.triton.generated.block import Kernel, Term
from jitinfer.kernels.triton.generated.expressions import computed, converted, literal
from jitinfer.kernels.triton.generated.tiles import indexed_tiling
from jitinfer.runtime.plan import Fill, Pointer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target


class Creation(Family):
    """One number everywhere, by the copy engine where all its bytes are equal; and numbers in order."""

    name = "creation"
    ops = ("full", "iota")

    def supports(self, node: Node, target: Target) -> bool:
        plain = launching.types_known(node, target) and node.output.dtype not in PARTS
        return plain and launching.results_of(node) is not None

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        return launching.block_configs(target, node.outputs[0].type.size)

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        dtype = node.output.dtype
        if node.op.name == "full":
            data = numpy.full((), node.attributes["value"]).astype(numpy_dtype(dtype)).tobytes()
            if len(set(data)) == 1:
                return Candidate((Fill(Pointer(output_name(0)), node.output.type.nbytes, data[0]),))
        written = launching.results_of(node)
        assert written is not None
        y = written[0]
        shape = (node.output.type.size,) if node.op.name == "full" else y.shape
        if node.op.name == "full":  # the order of equal numbers does not matter
            y = Strided(y.buffer, y.dtype, View.of(shape))
        plan = indexed_tiling(shape, config["elements"])
        kernel = Kernel(programmatic=bool(config["programmatic"]))
        block = plan.begin(kernel)
        if node.op.name == "full":
            value = literal(node.attributes["value"], computed(dtype))
        else:
            value = converted(f"({block.space.index(0)})", "int64" if block.space.wide else "int32", dtype)
        block.store(y, Term(value, dtype))
        return Candidate((launching.launch(kernel, plan.programs, config["warps"]),))
