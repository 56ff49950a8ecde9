"""One node several times over, each time on other memory: what a device does with it when nothing is in its cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.kernels.assembly import assemble, scratch_bytes
from jitinfer.kernels.family import WORKSPACE, input_name, output_name
from jitinfer.runtime.plan import Buffer, Plan, Pointer, aligned
from jitinfer.runtime.samples import sample, sampled

if TYPE_CHECKING:
    from jitinfer.graph.node import Node, Value
    from jitinfer.kernels.target import Target
    from jitinfer.lowering.choice import Choice
    from jitinfer.runtime.device import Device
    from jitinfer.runtime.plan import Step
    from jitinfer.runtime.weights import Weights

    Array = Any

MOST_COPIES = 32


class Rotation:
    """`copies` of a node's operands and results, together more than twice the device's second-level cache."""

    def __init__(self, node: Node, target: Target) -> None:
        self.node = node
        self._target = target
        self._operands: dict[Value, str] = {}
        for position, value in enumerate(node.inputs):
            if value is not None:
                self._operands.setdefault(value, input_name(position))
        nbytes = sum(value.type.nbytes for value in (*self._operands, *dict.fromkeys(node.outputs)))
        self.copies = max(2, min(MOST_COPIES, -(-2 * target.l2_bytes // max(nbytes, 1))))

    def weights(self, device: Device) -> Weights:
        """Operands for all copies, as `sample` makes them."""
        types = {f"{name}_{copy}": value.type for value, name in self._operands.items() for copy in range(self.copies)}
        return sampled(types, device)

    def operands(self) -> list[Array | None]:
        """What each copy's operands are, for each input of the node."""
        return [None if value is None else sample(value.type) for value in self.node.inputs]

    def plan(self, choice: Choice, copies: int | None = None) -> Plan:
        """The node once on each copy, or on the first `copies`; the outputs are those of the first."""
        node, end = self.node, 0
        buffers: list[Buffer] = []
        steps: list[Step] = []
        extra = aligned(choice.candidate.workspace_bytes) + scratch_bytes(choice.candidate, choice.kernels)
        for copy in range(copies or self.copies):
            places: dict[str, Pointer] = {}
            for value, name in self._operands.items():
                buffers.append(Buffer(f"{name}_{copy}", value.type.nbytes, "weight", 0, value.shape, value.dtype))
            for position, read in enumerate(node.inputs):
                if read is not None:
                    places[input_name(position)] = Pointer(f"{self._operands[read]}_{copy}")
            written: dict[Value, str] = {}
            for position, value in enumerate(node.outputs):
                name = written.setdefault(value, f"{output_name(position)}_{copy}")
                places[output_name(position)] = Pointer(name)
            for value, name in written.items():
                if copy == 0:
                    buffers.append(Buffer(name, value.type.nbytes, "output", 0, value.shape, value.dtype))
                else:
                    buffers.append(Buffer(name, value.type.nbytes, "arena", end))
                    end += aligned(value.type.nbytes)
            buffers.append(Buffer(f"{WORKSPACE}_{copy}", extra, "arena", end))
            end += aligned(extra)
            places[WORKSPACE] = Pointer(f"{WORKSPACE}_{copy}")
            steps += assemble(node, choice.candidate, choice.kernels, places)
        kernels = tuple({kernel.digest: kernel for kernel in choice.kernels}.values())
        outputs = tuple(f"{output_name(node.outputs.index(value))}_0" for value in node.outputs)
        return Plan(self._target.compute_capability, end, tuple(buffers), tuple(steps), kernels, (), outputs)
