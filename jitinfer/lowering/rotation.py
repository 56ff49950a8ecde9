"""Nodes several times over, each time on other memory: what a device does with them when nothing is in its cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.kernels.assembly import assemble, scratch_bytes
from jitinfer.kernels.family import WORKSPACE, input_name, output_name
from jitinfer.runtime.plan import Buffer, Plan, Pointer, aligned
from jitinfer.runtime.samples import sample, sampled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph.node import Node, Value
    from jitinfer.kernels.target import Target
    from jitinfer.lowering.choice import Work
    from jitinfer.runtime.device import Device
    from jitinfer.runtime.plan import Step
    from jitinfer.runtime.weights import Weights

    Array = Any

MOST_COPIES = 32


class Rotation:
    """`copies` of the operands and results of nodes, together more than twice the device's second-level cache.

    nodes: in order; what one gives another is no operand: it may be in the cache, as it is in a model.
    """

    def __init__(self, nodes: Sequence[Node], target: Target) -> None:
        self._target = target
        self._last = nodes[-1]
        self._names: dict[Value, str] = {}
        written: set[Value] = set()
        operands: dict[Value, None] = {}
        for number, node in enumerate(nodes):
            for position, value in enumerate(node.inputs):
                if value is not None and value not in written:
                    operands.setdefault(value)
                    self._names.setdefault(value, f"{number}_{input_name(position)}")
            for position, value in enumerate(node.outputs):
                written.add(value)
                self._names.setdefault(value, f"{number}_{output_name(position)}")
        self.operands: tuple[Value, ...] = tuple(operands)
        """What the nodes are given, each value once."""
        nbytes = sum(value.type.nbytes for value in self._names)
        self.copies = max(2, min(MOST_COPIES, -(-2 * target.l2_bytes // max(nbytes, 1))))

    def name(self, value: Value, copy: int) -> str:
        """Of a value's buffer, in plans."""
        return f"{self._names[value]}_{copy}"

    def weights(self, device: Device) -> Weights:
        """Operands for all copies, as `sample` makes them."""
        types = {self.name(value, copy): value.type for value in self.operands for copy in range(self.copies)}
        return sampled(types, device)

    def plan(self, work: Work, copies: int | None = None) -> Plan:
        """The nodes once on each copy, or on the first `copies`; its outputs are the last node's, of the first copy.

        work: the nodes with their kernels.
        """
        end = 0
        buffers: list[Buffer] = []
        steps: list[Step] = []
        for copy in range(copies or self.copies):
            places = {value: Pointer(self.name(value, copy)) for value in self._names}
            for value in self._names:
                name, nbytes = self.name(value, copy), value.type.nbytes
                if value in self.operands:
                    buffers.append(Buffer(name, nbytes, "weight", 0, value.shape, value.dtype))
                elif copy == 0 and value in self._last.outputs:
                    buffers.append(Buffer(name, nbytes, "output", 0, value.shape, value.dtype))
                else:
                    buffers.append(Buffer(name, nbytes, "arena", end))
                    end += aligned(nbytes)
            for number, (node, choice) in enumerate(work):
                extra = aligned(choice.candidate.workspace_bytes) + scratch_bytes(choice.candidate, choice.kernels)
                workspace = f"{number}_{WORKSPACE}_{copy}"
                buffers.append(Buffer(workspace, extra, "arena", end))
                end += aligned(extra)
                named = {input_name(i): places[value] for i, value in enumerate(node.inputs) if value is not None}
                named.update((output_name(i), places[value]) for i, value in enumerate(node.outputs))
                named[WORKSPACE] = Pointer(workspace)
                steps += assemble(node, choice.candidate, choice.kernels, named)
        kernels = tuple({kernel.digest: kernel for _, choice in work for kernel in choice.kernels}.values())
        outputs = tuple(self.name(value, 0) for value in self._last.outputs)
        return Plan(self._target.compute_capability, end, tuple(buffers), tuple(steps), kernels, (), outputs)


def samples_for(node: Node) -> list[Array | None]:
    """What each copy's operands hold, for each input of a node that is alone."""
    return [None if value is None else sample(value.type) for value in node.inputs]
