"""Where a plan's buffers lie in the one allocation that an executor makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.runtime.plan import Plan, aligned

if TYPE_CHECKING:
    from jitinfer.runtime.plan import Buffer


@dataclass(frozen=True)
class Layout:
    """Offsets in bytes of all buffers but the weights, and of the regions that hold one placement each.

    Inputs lie side by side, and so do outputs and constants: each is one copy between host and device.
    """

    offsets: dict[str, int]
    regions: dict[str, tuple[int, int]]
    nbytes: int

    @staticmethod
    def of(plan: Plan) -> Layout:
        offsets = {buffer.name: buffer.offset for buffer in plan.buffers if buffer.placement == "arena"}
        regions = {"arena": (0, aligned(plan.arena_bytes))}
        end = regions["arena"][1]
        for placement, buffers in _side_by_side(plan).items():
            start = end
            for buffer in buffers:
                offsets[buffer.name] = end
                end += aligned(buffer.nbytes)
            regions[placement] = (start, end)
        return Layout(offsets, regions, end)

    def within(self, placement: str, name: str) -> int:
        """The offset of a buffer from the start of its region."""
        return self.offsets[name] - self.regions[placement][0]


def _side_by_side(plan: Plan) -> dict[str, list[Buffer]]:
    outputs = [name for name in dict.fromkeys(plan.outputs) if plan.buffer_named[name].placement == "output"]
    return {
        "input": [plan.buffer_named[name] for name in plan.inputs],
        "output": [plan.buffer_named[name] for name in outputs],
        "constant": [plan.buffer_named[name] for name, _ in plan.constants],
    }
