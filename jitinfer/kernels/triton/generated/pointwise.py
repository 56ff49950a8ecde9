"""Kernels for pointwise ops, and for groups of them: each element from the elements at its place, in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from jitinfer.kernels.family import Candidate, Config, Family
from jitinfer.kernels.triton.generated import launching
from jitinfer.kernels.triton.generated.block import Kernel
from jitinfer.kernels.triton.generated.body import COMPLEX, REDUCTIONS, Body, body_of, writable
from jitinfer.kernels.triton.generated.expressions import POINTWISE
from jitinfer.kernels.triton.generated.tiles import Tiling, tiling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Graph, Node
    from jitinfer.kernels.target import Target


def space_of(body: Graph) -> tuple[int, ...] | None:
    """The shape that all values of a body broadcast to; None where there is none."""
    values = [*body.inputs, *(value for node in body.nodes for value in node.outputs)]
    try:
        return numpy.broadcast_shapes(*(value.shape for value in values))
    except ValueError:
        return None


class Pointwise(Family):
    """Any strides, any number of operands and results."""

    name = "pointwise"
    ops = ("group", *sorted(POINTWISE | COMPLEX))

    def supports(self, node: Node, target: Target) -> bool:
        if not launching.types_known(node, target) or launching.results_of(node) is None:
            return False
        body = body_of(node)
        space = space_of(body)
        flat = all(value.shape == space for value in body.outputs)
        return flat and writable(body) and not any(each.op.name in REDUCTIONS for each in body.nodes)

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        return launching.block_configs(target, node.outputs[0].type.size)

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        body = body_of(node)
        space = space_of(body)
        written = launching.results_of(node)
        assert space is not None
        assert written is not None
        tensors = launching.shaped([*launching.operands_of(node), *written], space)
        plan = tiling(tensors, len(written), config["elements"])
        kernel = Kernel(programmatic=bool(config["programmatic"]))
        write_body(kernel, plan, body, len(written))
        return Candidate((launching.launch(kernel, plan.programs, config["warps"]),))


def write_body(kernel: Kernel, plan: Tiling, body: Graph, written: int, program: str = "tl.program_id(0)") -> None:
    """The lines of one body over one space. plan: of its operands, then its `written` results."""
    split = len(plan.tensors) - written
    Body(plan.begin(kernel, program)).write(body, plan.tensors[:split], plan.tensors[split:])
